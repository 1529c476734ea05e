"""An app with guarded tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, Task

import celery_leader
from celery_leader import leader_only
from celery_leader.tasks.leader_only import leader_queue
from tests.tasks.deliveries import taken


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with guarded tasks, wired, on a broker in memory."""
    app = Celery("proj", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", leader_elections=["default", "reports"])
    celery_leader.setup(app)

    @app.task(name="forwards", shared=False)
    @leader_only
    def forwards(a: int, b: int = 2) -> str:
        """Add."""
        return f"{a}+{b} in {celery_leader.fencing_token()}"

    @app.task(name="bound", shared=False, bind=True)
    @leader_only(election="reports")
    def bound(self: Task, a: int) -> str:
        return f"{self.name} {a}"

    @app.task(name="skips", shared=False)
    @leader_only(on_follower="skip")
    def skips() -> None: ...

    @app.task(name="raises", shared=False)
    @leader_only(on_follower="raise")
    def raises() -> None: ...

    @app.task(name="retries", shared=False, autoretry_for=(Exception,))
    @leader_only
    def retries() -> None: ...

    @app.task(name="plain", shared=False)
    def plain() -> None: ...

    app.finalize()
    for election in ("default", "reports"):  # memory is one for all apps
        taken(app, leader_queue(app, election))
    taken(app)
    yield app
    app.close()
