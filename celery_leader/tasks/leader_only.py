"""Tasks that run on the leader only: the decorator, its router, its queue."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from celery import Celery, Task, current_app
from celery._state import get_current_task
from celery.local import Proxy
from celery.states import IGNORED
from kombu import Queue

from celery_leader.exceptions import ConfigurationError, NotLeader
from celery_leader.leadership import state
from celery_leader.settings import DEFAULT_ELECTION, LeaderSettings, queue_name
from celery_leader.tasks.turning_away import GoBack, TurnedAway

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "__leader_only__"
_ON_FOLLOWER = ("forward", "skip", "raise")


@dataclass(frozen=True)
class LeaderOnly:
    """What :func:`leader_only` says of a task."""

    election: str
    on_follower: str


@overload
def leader_only(function: Function) -> Function: ...
@overload
def leader_only(*, election: str = ..., on_follower: str = ...) -> Callable[[Function], Function]: ...
def leader_only(
    function: Function | None = None, *, election: str = DEFAULT_ELECTION, on_follower: str = "forward"
) -> Function | Callable[[Function], Function]:
    """Let a task run on the leader only.

    It stands below ``@app.task``::

        @app.task
        @leader_only
        def close_the_day(): ...

    Calls are routed to a queue that only the leader consumes; with no leader they wait there. The message is
    acknowledged when the task has ended, so that it can go back to the queue when its worker stops leading before
    the task began. A task that has begun goes on when leadership is lost: it may ask
    :func:`~celery_leader.is_leader`, and hand :func:`~celery_leader.fencing_token` to what it writes to. Direct calls,
    ``.apply()`` and eager mode just run.

    Args:
        function: The task's function, when used without parentheses.
        election: Whose leader runs it.
        on_follower: What to do with a message that reaches a follower by another queue: ``forward`` it to the leader's
            queue, ``skip`` it (state IGNORED), or ``raise`` :class:`~celery_leader.exceptions.NotLeader`.

    Raises:
        ConfigurationError: ``on_follower`` is none of these, or the decorator stands above ``@app.task``.
    """
    if on_follower not in _ON_FOLLOWER:
        raise ConfigurationError(f"on_follower must be one of {', '.join(_ON_FOLLOWER)}, got {on_follower!r}.")
    mark = LeaderOnly(election, on_follower)
    return _guarded(function, mark) if function is not None else lambda function: _guarded(function, mark)


def mark_of(task: Any) -> LeaderOnly | None:
    """Return what :func:`leader_only` says of *task*, None for a task that runs anywhere."""
    return getattr(getattr(task, "run", None), _MARK, None)


def leader_queue(app: Celery, election: str) -> Queue:
    """Return the queue of the leader of *election*, with the arguments that publishers of this app declare.

    A registry of its own answers, because the app's would make every worker consume whatever is looked up in it
    (Celery before 5.7).
    """
    queue: Queue = app.amqp.Queues(app.conf.task_queues, create_missing=True)[queue_name(app, election)]
    return queue


class LeaderRouter:
    """Sends guarded tasks to their leader's queue. The first of the app's ``task_routes``."""

    def __init__(self, app: Celery | None = None) -> None:
        """Route for *app*, the current one when omitted."""
        self._bound = app
        self._queues: dict[str, Queue] = {}

    def __reduce__(self) -> Any:
        """Leave the app out: it holds the router in its settings, and would be pickled with half of them."""
        return LeaderRouter, ()

    @property
    def _app(self) -> Celery:
        return self._bound or current_app._get_current_object()  # noqa: SLF001  # nothing public does

    def __call__(
        self, name: str, args: Any = None, kwargs: Any = None, options: Any = None, task: Any = None, **_: Any
    ) -> dict[str, Queue] | None:
        """Return the route of the task *name*, None for tasks that run anywhere."""
        mark = mark_of(task if task is not None else self._app.tasks.get(name))
        return {"queue": self.queue(mark.election)} if mark else None

    def queue(self, election: str) -> Queue:
        """Return the queue of the leader of *election*."""
        if election not in self._queues:
            self._queues[election] = leader_queue(self._app, election)
        return self._queues[election]


def route_guarded_tasks(app: Celery) -> None:
    """Put our router before the app's own, unless it is there already."""
    routes = app.conf.task_routes
    routes = list(routes) if isinstance(routes, (list, tuple)) else [routes] if routes else []
    if not any(isinstance(route, LeaderRouter) for route in routes):
        app.conf.task_routes = [LeaderRouter(app), *routes]


def acknowledge_guarded_tasks_late(app: Celery) -> None:
    """Let the messages of guarded tasks be acknowledged when they end: one that is acknowledged can't go back."""
    for task in app.tasks.values():
        if mark_of(task):
            task.acks_late = True


def warn_of_unknown_elections(app: Celery, settings: LeaderSettings) -> None:
    """Tell of guarded tasks that would wait for ever: no worker takes part in the election that they name."""
    for task in app.tasks.values():
        mark = mark_of(task)
        if mark and mark.election not in settings.all_elections:
            logger.warning(
                "%s is reserved for the leader of %r, which no worker with these settings can be: it waits for ever. "
                "Name the election in leader_elections.", task.name, mark.election,
            )  # fmt: skip


def _guarded(function: Function, mark: LeaderOnly) -> Function:
    if isinstance(function, (Task, Proxy)):
        raise ConfigurationError("@leader_only stands above @app.task here; put it below, next to the function.")

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        task = get_current_task()
        if mark_of(task) is not mark or task.request.called_directly or task.request.is_eager:
            return function(*args, **kwargs)
        term = state.current_term(mark.election) if state.accepts_work(mark.election) else None
        if term is None:
            return _turn_away(task, mark)
        with state.in_term(term):
            return function(*args, **kwargs)

    setattr(run, _MARK, mark)
    # Celery checks calls against the signature, and asks in a way that does not look through wrappers.
    run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # functions take any attribute
    return run  # type: ignore[return-value]  # same signature, by construction


def _turn_away(task: Task, mark: LeaderOnly) -> None:
    """Do what is to be done with a guarded task that was received by a worker that does not lead."""
    queue = leader_queue(task.app, mark.election)
    if _came_by(queue, task):
        raise GoBack(f"{task.name}[{task.request.id}]: not the leader of {mark.election!r} any more", requeue=True)
    if mark.on_follower == "raise":
        raise NotLeader(
            f"{task.name}[{task.request.id}] is reserved for the leader of {mark.election!r}; this worker is not it."
        )
    if mark.on_follower == "skip":
        logger.info("%s[%s] skipped: this worker does not lead %r", task.name, task.request.id, mark.election)
        task.update_state(state=IGNORED)
        raise TurnedAway
    _forward(task, queue)


def _came_by(queue: Queue, task: Task) -> bool:
    delivery = task.request.delivery_info or {}
    return bool(delivery.get("routing_key") == queue.routing_key and delivery.get("exchange") == queue.exchange.name)


def _forward(task: Task, queue: Queue) -> None:
    """Send the same task, with the same id and all that hangs on it, to its leader's queue."""
    try:
        task.signature_from_request(task.request, queue=queue).apply_async()
    except Exception as error:  # whatever it is, the message must not be lost
        raise GoBack(f"{task.name}[{task.request.id}] could not be forwarded: {error}", requeue=True) from error
    logger.info("%s[%s] forwarded to the leader's queue %s", task.name, task.request.id, queue.name)
    raise TurnedAway
