"""On whose behalf a guarded task is called like a function: code may do that, Celery may not do it for a message."""

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

from celery_leader.tasks.guarding import was_delivered

#: Celery's tasks that call another task like a function, in whichever worker they run.
MAPS = frozenset({"celery.map", "celery.starmap", "celery.chunks"})


def map_that_calls(task: Task) -> str | None:
    """Return the name of the map that calls *task* on behalf of a message, None when no map does.

    One map may call another. Its message may be its own, or that of a failed task whose error callback it is.
    """
    for caller in reversed([each for each in _task_stack.stack if each is not task]):
        if caller.name not in MAPS:
            return None
        if was_delivered(caller.request) or failure_that_calls(caller):
            return str(caller.name)
    return None


def failure_that_calls(task: Task) -> tuple[Signature, Context] | None:
    """Return the error callback by which Celery calls *task* like a function, and the request of the failed task.

    Celery calls error callbacks of several arguments in the worker where the task failed, even in its main process.
    """
    called = _error_callbacks()
    if called is None or called["errback"].type is not task:
        return None  # the code of another callback may call any task
    return called["errback"], called["request"]


def a_message_pretends() -> bool:
    """Return whether Celery applies something, instead of sending it, because a message claims to run eagerly."""
    if (called := _error_callbacks()) and "g" in called:
        return True
    return any(request.is_eager and was_delivered(request) for request in _requests())


def _error_callbacks() -> dict[str, Any] | None:
    """Return the variables of Celery's function that runs error callbacks, None when it does not run for a message.

    Nothing else names the caller. Its "g" is the group of callbacks that it sends after it has called the others.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not Backend._call_task_errbacks.__code__:
        frame = frame.f_back
    return frame.f_locals if frame is not None and not _runs_eagerly(frame.f_locals["request"]) else None


def _runs_eagerly(failed: Context) -> bool:
    return any(failed is request and not was_delivered(request) for request in _requests())


def _requests() -> Iterator[Context]:
    """Yield the requests of all tasks that run in this thread, each inside another."""
    for task in _task_stack.stack:
        yield from task.request_stack.stack
