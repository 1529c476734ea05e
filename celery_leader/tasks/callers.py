"""Who calls a guarded task like a function: code that may, or Celery, on behalf of a message."""

# ruff: noqa: SLF001  # Celery has nothing public for any of this
from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from celery import Task
from celery._state import _task_stack
from celery.app.task import Context
from celery.backends.base import Backend
from celery.canvas import Signature

#: Celery's tasks that call another task, like a function, wherever they run.
MAPS = frozenset({"celery.map", "celery.starmap", "celery.chunks"})


def was_delivered(request: Any) -> bool:
    """Return whether a message made *request*, and not an eager or a direct call.

    Nothing that a message says is believed: it can set every attribute of its request, "is_eager" too, but it can't
    remove the properties that only messages have. (A task that calls itself copies its request.)
    """
    is_eager = request.is_eager and "properties" not in vars(request)
    return not request.called_directly and not is_eager


def delivery_of(task: Task) -> Any:
    """Return the request with which a message brought *task* here, None when it runs eagerly or was called directly."""
    request = task.request
    return request if was_delivered(request) else None


def map_that_calls(task: Task) -> str | None:
    """Return which of Celery's tasks that call others calls *task*, if a message brought it, or a failure calls it.

    One may call the other.
    """
    for caller in reversed([each for each in _task_stack.stack if each is not task]):
        if caller.name not in MAPS:
            return None
        if delivery_of(caller) is not None or failure_that_calls(caller):
            return str(caller.name)
    return None


def failure_that_calls(task: Task) -> tuple[Signature, Context] | None:
    """Return by which error callback Celery calls *task* like a function, and the request of the task that failed.

    It does so with callbacks of several arguments, in the worker where the other task failed, even in its main process.
    """
    called = _error_callbacks()
    if called is None or "g" in called or called["errback"].type is not task:
        return None  # the code of another callback may call what it likes
    return called["errback"], called["request"]


def a_message_pretends() -> bool:
    """Return whether Celery applies something, instead of sending it, because a message says that it runs eagerly."""
    if (called := _error_callbacks()) and "g" in called:
        return True
    return any(request.is_eager and was_delivered(request) for request in _requests())


def _error_callbacks() -> dict[str, Any] | None:
    """Return the variables of the function by which Celery calls and sends error callbacks, if it runs for a message.

    Nothing else tells who calls. Its "g" are the callbacks that it sends, once it has called the others.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not Backend._call_task_errbacks.__code__:
        frame = frame.f_back
    return frame.f_locals if frame is not None and not _runs_eagerly(frame.f_locals["request"]) else None


def _runs_eagerly(failed: Context) -> bool:
    return any(failed is request and not was_delivered(request) for request in _requests())


def _requests() -> Iterator[Context]:
    """Yield the requests of all tasks that run here, one within the other."""
    for task in _task_stack.stack:
        yield from task.request_stack.stack
