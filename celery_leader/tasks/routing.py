"""Where the messages of guarded tasks go: to a queue that only the leader consumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery, current_app
from kombu import Queue

from celery_leader.exceptions import ConfigurationError
from celery_leader.older_celery import set_routes
from celery_leader.settings import queue_name
from celery_leader.tasks.callers import MAPS
from celery_leader.tasks.leader_only import mark_of


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
