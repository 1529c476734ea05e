"""Shims for Celery 5.5 and 5.6. Delete this file when the project requires Celery 5.7.

Each function names its replacement after that. ``tests/test_older_celery.py`` makes sure that no other module asks for
a version of Celery, and that this file goes in time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import tzinfo
from typing import Any
from uuid import uuid4

import celery
from celery import Celery
from celery.worker import state as worker_state


def connect_method(signal: Any, method: Callable[..., Any]) -> None:
    """Connect *method* to *signal* until its object is gone.

    Older versions identify a bound method by its function, so the methods of two objects are one receiver to them, and
    only the first is called. Then: ``signal.connect(method)``.
    """
    signal.connect(method, dispatch_uid=uuid4().hex)


def zone_of_nowfun(schedule: Any) -> tzinfo | None:
    """Return the time zone of the ``nowfun`` of *schedule*, off whose time older versions read a crontab's hours.

    Then: None.
    """
    nowfun = getattr(schedule, "nowfun", None)
    zone: tzinfo | None = nowfun().tzinfo if nowfun and celery.VERSION < (5, 7) else None
    return zone


def set_routes(conf: Any, routes: list[Any]) -> None:
    """Set the routes of an app, by its *conf*.

    Where settings have a namespace, older versions prefer what the project says (``CELERY_TASK_ROUTES``) to what is set
    later without it. Then: ``conf.task_routes = routes``.
    """
    conf.task_routes = routes
    if celery.VERSION < (5, 7):
        conf[conf._to_keys("task_routes")[0]] = routes  # noqa: SLF001  # nothing public tells the key


def is_due_failed(scheduler: Any, entry: Any) -> tuple[bool, float]:
    """Log that the next run of *entry* can't be calculated, and return that it is not due, and when to look again.

    Older versions of *scheduler* would end. Then: ``scheduler._is_due_failed(entry)``.
    """
    if hasattr(scheduler, "_is_due_failed"):
        failed: tuple[bool, float] = scheduler._is_due_failed(entry)  # noqa: SLF001  # as Celery's own tick does
        return failed
    logging.getLogger("celery.beat").error(
        "beat: Cannot calculate the next run of %r, trying again in %s s.", entry.name, scheduler.max_interval,
        exc_info=True,  # noqa: LOG014  # called while it is handled
    )  # fmt: skip
    return False, scheduler.max_interval


def select_queues(app: Celery) -> None:
    """Consume from the queues that were selected, and from no others.

    Older versions also consume from each queue to which the process sends by name. Then: nothing.
    """
    queues = app.amqp.queues
    queues.select(list(queues.consume_from))


def pool_start_method(worker: Any) -> str:
    """Return the setting by which *worker* starts the children of its pool: older versions always fork.

    Then: ``worker.pool_start_method``.
    """
    return str(getattr(worker, "pool_start_method", "fork"))


def pop_timeout(transport: Any) -> float:
    """Return how long (seconds) kombu's Redis *transport* waits for a message. Then: ``transport.brpop_timeout``."""
    return float(getattr(transport, "brpop_timeout", 1))


def scheduled_requests() -> Iterable[Any]:
    """Return the requests that wait for their time.

    Older versions keep no list of them; the broker has their messages back when the connection is closed. Then:
    ``worker_state.scheduled_requests``.
    """
    found: Iterable[Any] = getattr(worker_state, "scheduled_requests", ())
    return found
