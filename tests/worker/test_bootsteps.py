"""What stops a worker at its start."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery.worker.components import Pool
from celery.worker.consumer.tasks import Tasks

from celery_leader import leader_only, once_per_tick
from celery_leader.refusal import StartRefused
from celery_leader.worker.bootsteps import EmbeddedBeatStep, LeaderQueueStep, LeaderStep
from tests.worker.conftest import LocalWorker


def nothing() -> None: ...


def app_with_a_tick(**guard: Any) -> Celery:
    """Return an app whose store is not a database."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.leader_backend = "memory://"

    @app.task(shared=False)
    @once_per_tick(**guard)
    def tick() -> None: ...

    app.finalize()
    return app


def test_a_task_that_the_store_can_not_serve_is_refused() -> None:
    """At the start, not at each of its ticks; also by a worker that takes part in no election, but runs the task."""
    worker = SimpleNamespace(app=app_with_a_tick(atomic=True), logfile=None)
    with pytest.raises(StartRefused, match=r"atomic=True.*django-db://<alias>"):
        LeaderStep(worker, without_leader=True)


@pytest.mark.parametrize("logfile", [None, "worker.log"])
def test_a_worker_that_logs_to_a_file_is_refused_there_too(
    caplog: pytest.LogCaptureFixture, logfile: str | None
) -> None:
    """A detached one has no terminal to say it on."""
    worker = SimpleNamespace(app=app_with_a_tick(atomic=True), logfile=logfile)
    with pytest.raises(StartRefused) as refused:
        LeaderStep(worker, without_leader=True)
    said = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert said == ([str(refused.value)] if logfile else [])


def test_other_ticks_need_no_database() -> None:
    """Nor does a worker without ticks need a store."""
    LeaderStep(SimpleNamespace(app=app_with_a_tick(timeout=5)), without_leader=True)
    LeaderStep(SimpleNamespace(app=Celery("proj", broker="memory://", set_as_current=False)), without_leader=True)


@pytest.mark.parametrize("guard", [leader_only, once_per_tick], ids=["leader_only", "once_per_tick"])
@pytest.mark.parametrize("form", ["class", "base"])
def test_a_run_that_replaces_a_guarded_one_is_refused(guard: Any, form: str) -> None:
    """It would have no guard, though it calls the guarded one: that takes it for a part of another task."""
    app = Celery("proj", broker="memory://", set_as_current=False)

    class Base(Task):
        name = "base"

        @guard
        def run(self) -> None: ...

    class Sub(Base):
        name = "sub"

        def run(self) -> None:
            super().run()

    app.register_task(Base())
    LeaderStep(SimpleNamespace(app=app), without_leader=True)
    if form == "class":
        app.register_task(Sub())
    else:
        app.task(name="sub", shared=False, base=Base)(nothing)
    with pytest.raises(StartRefused, match=rf"sub replaces the run of .*Base, which @{guard.__name__} guards"):
        LeaderStep(SimpleNamespace(app=app, logfile=None), without_leader=True)


def test_steps_start_in_an_order_that_forks_no_thread(make_worker: Callable[..., LocalWorker]) -> None:
    """The pool, then what contends, then the beat; the leader's queue after the task consumer. By declaration."""
    worker = make_worker(leader_beat=True)
    started = [type(step).__name__ for step in worker.controller.steps]
    assert started.index("Pool") < started.index("LeaderStep") < started.index("EmbeddedBeatStep")
    consuming = [type(step).__name__ for step in worker.consumer.steps]
    assert consuming.index("Tasks") < consuming.index("LeaderQueueStep")
    for step, after in ((LeaderStep, Pool), (EmbeddedBeatStep, LeaderStep), (LeaderQueueStep, Tasks)):
        assert after in step.requires  # without it the order above is an accident; Celery has put in the classes
