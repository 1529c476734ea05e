"""An app, a task that counts its runs, and messages of its ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject

import celery_leader
from celery_leader import once_per_tick
from celery_leader.backends.memory import MemoryEffects
from celery_leader.beat.ticks import task_id
from celery_leader.leadership.effects import guard_of
from celery_leader.ledger import DUE_HEADER, Tick

DUE = datetime(2026, 11, 23, 9, 0, tzinfo=timezone.utc)
TICK = task_id("proj", Tick("default", "invoices", DUE))


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app, wired, on a broker and a store in memory."""
    app = Celery("proj", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://")
    celery_leader.setup(app)
    for queue in ("celery", "mine"):  # memory is one for all apps
        taken(app, queue)
    yield app
    app.AsyncResult(TICK).forget()
    app.close()


@pytest.fixture
def effects(app: Celery) -> MemoryEffects:
    """What the app's store knows of ticks."""
    store = guard_of(app)._effects
    assert isinstance(store, MemoryEffects)
    return store


class Runs:
    """A task that counts its runs, and does what the test wants of it."""

    def __init__(self, app: Celery, act: Callable[[], Any] = lambda: "ran", **options: Any) -> None:
        """Make it."""
        self.count = 0
        guard = options.pop("guard", once_per_tick)

        def run() -> Any:
            self.count += 1
            return act()

        self.task: Task = app.task(name="invoices", shared=False, **options)(guard(run))
        app.finalize()


def deliver(task: Task, *, id: str = TICK, queue: str = "celery", **request: Any) -> Any:  # noqa: A002
    """Run *task* as a pool child does, with a tick's message; return its trace's info, None for a success."""
    request = {
        "id": id, "task": task.name, "args": (), "kwargs": {}, "is_eager": False, "called_directly": False,
        "delivery_info": {"exchange": queue, "routing_key": queue}, "headers": {DUE_HEADER: DUE.isoformat()},
        **request,
    }  # fmt: skip
    return build_tracer(task.name, task, app=task.app)(id, (), {}, request).info


def taken(app: Celery, name: str = "celery") -> list[Any]:
    """Take all messages from the queue *name*."""
    messages = []
    with app.connection() as connection:
        channel = connection.default_channel
        app.amqp.Queues(None, create_missing=True)[name](channel).declare()
        while message := channel.basic_get(name, no_ack=True):
            messages.append(message)
    return messages


def is_dropped(info: Any) -> bool:
    """Whether the message is acknowledged, and nothing else done about it."""
    return isinstance(info.retval, Ignore) and not isinstance(info.retval, Reject)
