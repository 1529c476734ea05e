"""``@once_per_tick``: a tick has one effect, however often its message is delivered."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar, NoReturn, TypeVar, overload

from celery import Task
from celery.exceptions import Ignore, Reject

from celery_leader.election.limits import is_duration
from celery_leader.exceptions import ConfigurationError, RecordConflict, StoreUnavailable
from celery_leader.ledger import DUE_HEADER
from celery_leader.tasks.guarding import GoBack, Guard, TurnedAway, guard_on, guarded
from celery_leader.tasks.patient_store import PatientOnceStore, once_store_of

logger = logging.getLogger(__name__)

#: A function or a task class.
Target = TypeVar("Target", bound=Callable[..., Any])

#: How long (seconds) a claim lasts for a task without a time limit, and how much longer than its time limit for a task
#: with one: a task is killed a moment after its limit.
CLAIM_TIME, CLAIM_MARGIN = 3600.0, 10.0
#: How long (seconds) a delivery that may not run is put off, at least and at most.
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
#: How far (seconds) the leader's clock may be ahead of this machine's. Celery warns of more than 16.
CLOCK_TOLERANCE = 15.0
#: How a message that was acknowledged early is sent again: the broker has no copy, so the worker waits for the broker.
_FOR_EVER = {"max_retries": None, "interval_start": 0, "interval_step": 0.5, "interval_max": 2.0}


@dataclass(frozen=True)
class OncePerTick(Guard):
    """The options of :func:`once_per_tick`."""

    decorator: ClassVar = "once_per_tick"
    example: ClassVar = "timeout=60"

    timeout: float | None
    atomic: bool

    def admit(self, task: Task, request: Any, call: Callable[[], Any]) -> Any:
        """Run *task*, unless *request* is a tick that has run or is running."""
        due = _due_of(request)
        return call() if due is None else _Delivery(self, task, request, due).run(call)


@overload
def once_per_tick(function: Target) -> Target: ...
@overload
def once_per_tick(*, timeout: float | None = ..., atomic: bool = ...) -> Callable[[Target], Target]: ...
def once_per_tick(
    function: Target | None = None, *, timeout: float | None = None, atomic: bool = False
) -> Target | Callable[[Target], Target]:
    """Let a tick have its effect once, even if its message is delivered twice.

    Put it below ``@app.task``, above or below ``@leader_only``, or above a task class; then all subclasses are guarded
    as well::

        @app.task
        @once_per_tick
        def send_invoices(): ...

    It guards the messages that a leader's beat sends for periodic ticks; called in any other way, the task runs
    without a guard. Any worker may run it, whether it takes part in an election or not. Each delivery asks the store
    of ``leader_backend`` about its tick:

    * The tick is done: the message is dropped. The task's state stays as it is.
    * Another delivery runs the tick: this one is put off, by a copy of the message with a countdown. It is dropped
      once the other is done, and runs once the other has failed or its claim has ended.
    * Neither: the delivery claims the tick, runs, and notes that the tick is done. A task that raises gives the claim
      back, so that a retry or another delivery runs. When the process is killed, the claim ends by its own time.
    * The store does not answer: the message is put off as well. It is neither lost nor run blindly.

    A process that is killed after the effect and before the note leaves the effect without a note: the next delivery
    runs the tick again. ``atomic=True`` closes that gap for what the task writes to the leader's database.

    Args:
        function: The task's function or class, when used without parentheses.
        timeout: How long (seconds) a claim lasts. Choose longer than the task ever runs: when the claim has ended, a
            second delivery runs beside the first. The tick of a killed worker waits for that long. When omitted, it is
            the task's hard time limit and 10 s, or an hour for a task without one.
        atomic: Run the function in a transaction of the backend's database (``django-db://``), together with the note
            that the tick is done: both are committed, or neither. A run whose claim has ended is rolled back if
            another delivery has taken over.

    Raises:
        ConfigurationError: ``timeout`` is no positive number of seconds, or the decorator can't guard its target.
    """
    if timeout is not None and not is_duration(timeout):
        raise ConfigurationError(f"timeout must be a positive number of seconds, ten years at most, got {timeout!r}.")
    return guarded(function, OncePerTick(timeout, atomic))  # type: ignore[no-any-return]  # as the overloads say


def is_atomic(task: Any) -> bool:
    """Return whether the writes of *task* are committed together with the note that its tick is done."""
    guard = guard_on(task, "__once_per_tick__")
    return guard is not None and bool(guard.atomic)


def _due_of(request: Any) -> datetime | None:
    """Return the due time of the tick that *request* delivers, None when it delivers no tick.

    A tick has a computed task id. A task that passes its headers on to the tasks it calls makes no ticks: their ids
    are random.
    """
    headers = vars(request) if DUE_HEADER in vars(request) else request.headers  # the latter by protocol 1
    try:
        due = datetime.fromisoformat(headers[DUE_HEADER])
        return due.astimezone(timezone.utc) if due.tzinfo and uuid.UUID(request.id).version == 5 else None
    except (KeyError, ValueError, TypeError, OverflowError, AttributeError):  # no tick of ours
        return None


class _Delivery:
    """One delivery of a tick."""

    def __init__(self, options: OncePerTick, task: Task, request: Any, due: datetime) -> None:
        self._options = options
        self._task = task
        self._request = request
        self._due = due
        # The due time is part of the name: a sender who computes the id of a coming tick can't get it done early.
        self._tick = f"{request.id}@{due.isoformat()}"
        self._owner = uuid.uuid4().hex

    def run(self, call: Callable[[], Any]) -> Any:
        """Run the task by *call*, or end the delivery."""
        self._check_due_time()
        store = once_store_of(self._task.app)
        try:
            admission = store.begin(self._tick, self._owner, self._claim_time())
        except StoreUnavailable as error:
            self._put_off(LONGEST_PAUSE, f"whether it is done is unknown: {error}")
        if admission.is_done:
            logger.info("%s[%s] dropped: this tick is done", self._task.name, self._request.id)
            raise TurnedAway
        if not admission.may_run:
            self._put_off(admission.wait, "another delivery of this tick runs")
        return self._run_claimed(store, call)

    def _check_due_time(self) -> None:
        early = (self._due - datetime.now(timezone.utc)).total_seconds()
        if early > CLOCK_TOLERANCE:
            why = f"by this machine's clock it is due in {early:.0f} s; set this clock or the leader's"
            self._put_off(early, why, level=logging.WARNING)

    def _run_claimed(self, store: PatientOnceStore, call: Callable[[], Any]) -> Any:
        returned, ignored = False, None
        try:
            with store.running(self._tick, self._owner, in_transaction=self._options.atomic):
                try:
                    result = call()
                except Ignore as error:  # the task is done: it has replaced itself, for example
                    if isinstance(error, (Reject, TurnedAway)):  # it is not
                        raise
                    result, ignored = None, error
                returned = True
        except RecordConflict:
            if not returned:  # the task's own
                raise
            self._put_off(SHORTEST_PAUSE, "it ran longer than its claim lasted, and all its writes were rolled back")
        if ignored:
            raise ignored
        return result

    def _claim_time(self) -> float:
        if self._options.timeout is not None:
            return self._options.timeout
        task = self._task
        # Not every version of Celery copies the app's limit to the task.
        limit = (self._request.timelimit or (None,))[0] or task.time_limit or task.app.conf.task_time_limit
        return limit + CLAIM_MARGIN if limit else CLAIM_TIME

    def _put_off(self, wait: float, why: str, *, level: int = logging.INFO) -> NoReturn:
        """Send the same message again with a countdown, and end this delivery.

        A message that goes back to its queue would come again at once, and a message that was acknowledged early can't
        go back.
        """
        task, request = self._task, self._request
        pause = min(max(wait, SHORTEST_PAUSE), LONGEST_PAUSE)
        if visibility := task.app.conf.broker_transport_options.get("visibility_timeout"):
            pause = min(pause, visibility / 4)  # the broker delivers again what a worker holds for longer
        options = {} if task.acks_late else {"retry": True, "retry_policy": _FOR_EVER}
        try:
            task.signature_from_request(request, countdown=pause, **options).apply_async()
        except Exception as error:  # whatever it is, the message must not be lost
            if not task.acks_late:
                raise
            time.sleep(SHORTEST_PAUSE)  # the broker delivers it again at once
            raise GoBack(f"{task.name}[{request.id}] could not be put off: {error}", requeue=True) from error
        logger.log(level, "%s[%s] put off for %.1f s: %s", task.name, request.id, pause, why)
        raise TurnedAway
