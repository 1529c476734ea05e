"""``@leader_only``: tasks that run on the leader, the router of their messages, and the leader's queue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, get_args, overload

from celery import Celery, Task, current_app
from celery.app.task import Context
from celery.canvas import Signature
from celery.states import IGNORED
from kombu import Queue

from celery_leader.election.limits import shown
from celery_leader.exceptions import ConfigurationError, NotLeader
from celery_leader.leadership import state
from celery_leader.older_celery import set_routes
from celery_leader.settings import DEFAULT_ELECTION, apps_set_up, queue_name
from celery_leader.tasks.callers import MAPS, a_message_pretends, failure_that_calls, map_that_calls
from celery_leader.tasks.guarding import GoBack, Guard, TurnedAway, guard_on, guarded

logger = logging.getLogger(__name__)

#: A function or a task class.
Target = TypeVar("Target", bound=Callable[..., Any])

#: What a follower may do with a message that reached it by another queue than the leader's.
OnFollower = Literal["forward", "skip", "raise"]

#: The header of a message that reached a follower by another queue, and is not forwarded. The worker's main process
#: adds it. A sender who forges it only loses that one run.
TO_FOLLOWER_HEADER = "leader_to_follower"


@dataclass(frozen=True)
class LeaderOnly(Guard):
    """The options of :func:`leader_only`."""

    decorator: ClassVar = "leader_only"
    example: ClassVar = 'election="reports"'

    election: str
    on_follower: OnFollower

    def admit(self, task: Task, request: Any, call: Callable[[], Any]) -> Any:
        """Run *task* in the current term, or turn its message away."""
        term = state.current_term(self.election) if state.accepts_work(self.election) else None
        if term is None:
            self._turn_away(task, request)
        with state.in_term(term):
            return call()

    def called_directly(self, task: Task, call: Callable[[], Any]) -> Any:
        """Run *task* when code calls it; refuse when Celery does so on behalf of a message."""
        if failure := failure_that_calls(task):
            return self._leave_to_the_leader(task, *failure)
        if caller := map_that_calls(task):
            raise NotLeader(
                f"{self._reserved(task.name)}, but {caller} calls it in any worker. Send a group instead of map, "
                "starmap or chunks."
            )
        if a_message_pretends():
            raise NotLeader(f"{self._reserved(task.name)}, but a message that claims to run eagerly calls it here.")
        return call()

    def _reserved(self, what: str) -> str:
        return f"{what} is reserved for the leader of {self.election!r}"

    def _leave_to_the_leader(self, task: Task, errback: Signature, failed: Context) -> None:
        """Send an error callback that has all its arguments. Other arguments, such as a traceback, can't be sent."""
        if errback.immutable:
            errback.apply_async()
            return
        logger.error(
            "%s did not run for the failure of %s: Celery calls an error callback of several arguments in the "
            "worker where the task failed, but it is reserved for the leader of %r. "
            "Declare it with one argument, the id of the failed task; then Celery sends it to the leader.",
            task.name, shown(f"{failed.task}[{failed.id}]"), self.election,
        )  # fmt: skip

    def _turn_away(self, task: Task, request: Any) -> NoReturn:
        what = shown(f"{task.name}[{request.id}]")
        if TO_FOLLOWER_HEADER not in vars(request):
            # A spawned child has a copy of its worker's app, which nobody set up, but it has its worker's trusts.
            if task.app not in apps_set_up and not state.takes_part():
                raise NotLeader(
                    f"{self._reserved(what)}, but this worker's app takes part in no election: call "
                    "celery_leader.setup(app) where the app is made."
                )
            # Leadership ended after the message was received.
            raise GoBack(f"{self._reserved(what)}, and this worker no longer leads", requeue=True)
        if self.on_follower == "raise":
            raise NotLeader(f"{self._reserved(what)}, and this worker does not lead.")
        logger.info("%s skipped: this worker does not lead %r", what, self.election)
        task.update_state(state=IGNORED)
        raise TurnedAway


@overload
def leader_only(function: Target) -> Target: ...
@overload
def leader_only(*, election: str = ..., on_follower: OnFollower = ...) -> Callable[[Target], Target]: ...
def leader_only(
    function: Target | None = None, *, election: str = DEFAULT_ELECTION, on_follower: OnFollower = "forward"
) -> Target | Callable[[Target], Target]:
    """Let a task run on the leader only.

    Put it below ``@app.task``, or above a task class; then all subclasses are guarded as well::

        @app.task
        @leader_only
        def close_the_day(): ...

    Calls go to a queue that only the leader consumes; without a leader they wait there. The worker acknowledges the
    message when the task has ended, so the message can go back to the queue if the worker stops leading before the
    task begins. A task that has begun goes on when leadership is lost: it may ask :func:`~celery_leader.is_leader`,
    and pass :func:`~celery_leader.fencing_token` to the systems that it writes to. Direct calls, ``.apply()`` and
    eager mode run the task at once, without an election.

    Args:
        function: The task's function or class, when used without parentheses.
        election: The election whose leader runs the task.
        on_follower: What to do with a message that reaches a follower by another queue: ``forward`` it to the leader's
            queue, ``skip`` it (state IGNORED), or ``raise`` :class:`~celery_leader.exceptions.NotLeader`.

    Raises:
        ConfigurationError: An option is wrong, or the decorator can't guard its target.
    """
    if on_follower not in get_args(OnFollower):
        raise ConfigurationError(f"on_follower must be one of {', '.join(get_args(OnFollower))}, got {on_follower!r}.")
    return guarded(function, LeaderOnly(election, on_follower))  # type: ignore[no-any-return]  # as the overloads say


def mark_of(task: Any) -> LeaderOnly | None:
    """Return the options of :func:`leader_only` on *task*, None for a task that runs anywhere."""
    guard: LeaderOnly | None = guard_on(task, "__leader_only__")
    return guard


def leader_queue(app: Celery, election: str) -> Queue:
    """Return the queue of the leader of *election*, with the arguments that publishers of this app declare.

    A registry of its own answers. The app's may be told to create no missing queues (``task_create_missing_queues``),
    and what it creates stays among the app's queues.
    """
    queue: Queue = app.amqp.Queues(app.conf.task_queues, create_missing=True)[queue_name(app, election)]
    return queue


class LeaderRouter:
    """Sends guarded tasks to their leader's queue. The first of the app's ``task_routes``."""

    def __init__(self, app: Celery | None = None) -> None:
        """Route for *app*, the current one when omitted."""
        self._bound = app
        self._queues: dict[str, Queue] = {}

    def __repr__(self) -> str:
        """Say what it does, for ``inspect conf``."""
        return f"<LeaderRouter: @leader_only tasks go to {queue_name(self._app, '<election>')}>"

    def __reduce__(self) -> Any:
        """Leave the app out: it holds the router in its settings, and would be pickled with half of them."""
        return LeaderRouter, ()

    @property
    def _app(self) -> Celery:
        return self._bound or current_app._get_current_object()  # noqa: SLF001  # nothing public does

    def __call__(
        self, name: str, args: Any = None, kwargs: Any = None, options: Any = None, task: Any = None, **_: Any
    ) -> dict[str, Queue] | None:
        """Return the route of the task *name*, None for tasks that run anywhere.

        Raises:
            ConfigurationError: The message would make its receiver call a guarded task like a function.
        """
        task = task if task is not None else self._app.tasks.get(name)
        if getattr(task, "name", name) in MAPS:
            self._check_map((kwargs or {}).get("task"))
        mark = mark_of(task)
        return {"queue": self.queue(mark.election)} if mark else None

    def queue(self, election: str) -> Queue:
        """Return the queue of the leader of *election*."""
        if election not in self._queues:
            self._queues[election] = leader_queue(self._app, election)
        return self._queues[election]

    def _check_map(self, signature: Any) -> None:
        name = signature.get("task") if isinstance(signature, Mapping) else signature
        if mark_of(self._app.tasks.get(name)):
            raise ConfigurationError(
                f"{name} is reserved for a leader, and map, starmap and chunks call it wherever they run. "
                f"Send a group: group({name}.s(item) for item in items)."
            )


def route_guarded_tasks(sender: Celery, **_: Any) -> None:
    """Put our router before the app's own, unless it is there already: a receiver of ``on_after_configure``."""
    routes = sender.conf.task_routes
    routes = list(routes) if isinstance(routes, (list, tuple)) else [routes] if routes else []
    if not any(isinstance(route, LeaderRouter) for route in routes):
        set_routes(sender.conf, [LeaderRouter(sender), *routes])
