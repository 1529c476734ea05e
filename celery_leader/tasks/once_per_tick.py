"""Ticks that have one effect, however often their messages are delivered."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, overload

from celery import Task
from celery._state import get_current_task
from celery.exceptions import Ignore, Reject
from celery.local import Proxy

from celery_leader.exceptions import ConfigurationError, LockUnavailable, RecordConflict
from celery_leader.leadership.effects import TickGuard, guard_of
from celery_leader.ledger import DUE_HEADER
from celery_leader.tasks.turning_away import GoBack, TurnedAway

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "__once_per_tick__"

#: How long (seconds) the claim of a tick lasts whose task has no time limit, and how much longer than the limit of one
#: that has: whoever is killed at its limit is killed a moment late.
CLAIM_TIME, CLAIM_MARGIN = 3600.0, 10.0
#: How long (seconds) a delivery that may not run waits until its next look, at least and at most.
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
#: How a message without late acknowledgement is put off: nobody else has it, so a broker that is away is waited for.
_FOR_EVER = {"max_retries": None, "interval_start": 0, "interval_step": 0.5, "interval_max": 2.0}


@dataclass(frozen=True)
class OncePerTick:
    """What :func:`once_per_tick` says of a task."""

    timeout: float | None
    atomic: bool


@overload
def once_per_tick(function: Function) -> Function: ...
@overload
def once_per_tick(*, timeout: float | None = ..., atomic: bool = ...) -> Callable[[Function], Function]: ...
def once_per_tick(
    function: Function | None = None, *, timeout: float | None = None, atomic: bool = False
) -> Function | Callable[[Function], Function]:
    """Let a tick have its effect once, even if its message is delivered twice.

    It stands below ``@app.task``, and above or below ``@leader_only``::

        @app.task
        @once_per_tick
        def send_invoices(): ...

    It guards the messages of periodic ticks that a leader's beat sent; called in any other way, the function just
    runs. Any worker may run it, whether it takes part in an election or not: the app's ``leader_backend`` is asked
    whether the tick was done.

    * It was: the message is dropped. The task's state stays as it is.
    * Another delivery runs it: this one is put off, by a copy of the message with a countdown, until the other is
      done (then it is dropped) or has failed or its claim has ended (then it runs).
    * Neither: it claims the tick, runs, and notes that the tick is done. A task that raises gives the claim back, so
      that a retry or another delivery runs it again. One whose process is killed keeps it until it ends by itself.
    * The store does not answer: the message is put off as well; it is neither lost nor run blindly.

    A process that is killed after the effect and before the note leaves the effect without a note: the next delivery
    runs again. ``atomic=True`` closes that gap for what the task writes to the leader's database.

    Args:
        function: The task's function, when used without parentheses.
        timeout: How long (seconds) a claim lasts: longer than the task ever runs, because a delivery that comes after
            it runs beside the first. A killed worker's tick waits so long. When omitted, the task's hard time limit
            and 10 s, or an hour for a task without one.
        atomic: Run the function in a transaction of the backend's database (``django-db://``), in which the tick is
            noted as done, too: both are committed, or neither. A run whose claim has ended is rolled back if another
            has taken over.

    Raises:
        ConfigurationError: ``timeout`` is no positive number of seconds, or the decorator stands above ``@app.task``.
    """
    if timeout is not None and not _is_positive(timeout):
        raise ConfigurationError(f"timeout must be a positive, finite number of seconds, got {timeout!r}.")
    mark = OncePerTick(timeout, atomic)
    return _once(function, mark) if function is not None else lambda function: _once(function, mark)


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _once(function: Function, mark: OncePerTick) -> Function:
    if isinstance(function, (Task, Proxy)):
        raise ConfigurationError("@once_per_tick stands above @app.task here; put it below, next to the function.")

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        task = get_current_task()
        if getattr(getattr(task, "run", None), _MARK, None) is not mark or not _is_tick(task.request):
            return function(*args, **kwargs)
        return _run_once(task, mark, functools.partial(function, *args, **kwargs))

    setattr(run, _MARK, mark)
    run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # see _guarded
    return run  # type: ignore[return-value]  # same signature, by construction


def _is_tick(request: Any) -> bool:
    """Return whether this is a message of a tick: it says when it was due, and its id is computed, not random.

    Tasks that hand their headers on to those that they call make no ticks of them.
    """
    if request.called_directly or request.is_eager or DUE_HEADER not in (request.headers or {}):
        return False
    try:
        return uuid.UUID(request.id).version == 5
    except ValueError:
        return False


def _run_once(task: Task, mark: OncePerTick, function: Callable[[], Any]) -> Any:
    guard, tick, owner = guard_of(task.app), task.request.id, uuid.uuid4().hex
    if mark.atomic:
        guard.require_transactions()
    try:
        admission = guard.begin(tick, owner, _claim_time(task, mark))
    except LockUnavailable as error:
        _put_off(task, LONGEST_PAUSE, f"whether it was done is not known: {error}")
    if admission.is_done:
        logger.info("%s[%s] dropped: this tick was done", task.name, tick)
        raise TurnedAway
    if not admission.may_run:
        _put_off(task, admission.wait, "another delivery of this tick runs")
    return _run_begun(task, guard, owner, function, in_transaction=mark.atomic)


def _run_begun(task: Task, guard: TickGuard, owner: str, function: Callable[[], Any], *, in_transaction: bool) -> Any:
    returned, ignored = False, None
    try:
        with guard.running(task.request.id, owner, in_transaction=in_transaction):
            try:
                result = function()
            except Ignore as error:  # replaced itself, say: it has ended well, unless it never began
                if isinstance(error, (Reject, TurnedAway)):
                    raise
                result, ignored = None, error
            returned = True
    except RecordConflict:
        if not returned:
            raise
        _put_off(task, SHORTEST_PAUSE, "it ran longer than its claim lasted, and all was rolled back")
    if ignored:
        raise ignored
    return result


def _claim_time(task: Task, mark: OncePerTick) -> float:
    if mark.timeout is not None:
        return mark.timeout
    limit = (task.request.timelimit or (None,))[0] or task.time_limit or task.app.conf.task_time_limit
    return limit + CLAIM_MARGIN if limit else CLAIM_TIME


def _put_off(task: Task, wait: float, why: str) -> NoReturn:
    """End this delivery, after sending the same message again with a countdown.

    Not by giving it back: the broker would deliver it again at once, and again, and can't take back what was
    acknowledged early.
    """
    pause = min(max(wait, SHORTEST_PAUSE), LONGEST_PAUSE)
    if visibility := (task.app.conf.broker_transport_options or {}).get("visibility_timeout"):
        pause = min(pause, visibility / 4)  # a message that waits longer than that is delivered again meanwhile
    options = {} if task.acks_late else {"retry": True, "retry_policy": _FOR_EVER}
    try:
        task.signature_from_request(task.request, countdown=pause, **options).apply_async()
    except Exception as error:  # whatever it is, the message must not be lost
        if not task.acks_late:
            raise
        raise GoBack(f"{task.name}[{task.request.id}] could not be put off: {error}", requeue=True) from error
    logger.info("%s[%s] put off for %.1f s: %s", task.name, task.request.id, pause, why)
    raise TurnedAway
