"""An app, a task that counts its runs, and messages of its ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery, Task
from celery.exceptions import Ignore, Reject

import celery_leader
from celery_leader import once_per_tick
from celery_leader.backends.memory import MemoryOnceStore
from celery_leader.beat.due_times import task_id
from celery_leader.ledger import DUE_HEADER, Tick
from celery_leader.tasks.patient_store import once_store_of
from tests.tasks import deliveries
from tests.tasks.deliveries import taken

DUE = datetime(2020, 11, 23, 9, 0, tzinfo=timezone.utc)
TICK = task_id("proj", Tick("default", "invoices", DUE))
#: What the store calls that tick.
NAME = f"{TICK}@{DUE.isoformat()}"


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
def once_store(app: Celery) -> MemoryOnceStore:
    """What the app's store knows of ticks."""
    store = once_store_of(app)._store
    assert isinstance(store, MemoryOnceStore)
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


def deliver(task: Task, *, headers: dict[str, Any] | None = None, **request: Any) -> Any:
    """Run *task* as a pool child does, with a tick's message; return its trace's info, None for a success."""
    headers = {DUE_HEADER: DUE.isoformat()} if headers is None else headers
    return deliveries.deliver(task, headers=headers, **{"id": TICK, **request}).info


def is_dropped(info: Any) -> bool:
    """Whether the message is acknowledged, and nothing else done about it."""
    return isinstance(info.retval, Ignore) and not isinstance(info.retval, Reject)
