"""Whenever an app is set up, and whatever its process does: guarded tasks are routed, and workers receive them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from celery import Celery

import celery_leader
from celery_leader import leader_only
from celery_leader.backends import urls
from celery_leader.backends.memory import MemoryBackend, open_memory
from celery_leader.settings import LeaderSettings
from celery_leader.tasks.leader_only import LeaderRouter, leader_queue
from celery_leader.worker.leadership import receive_guarded_tasks
from celery_leader.worker.reception import GuardedStrategy
from tests.tasks.deliveries import taken
from tests.worker.conftest import LocalWorker

#: When ``setup(app)`` is called.
MOMENTS = ["first", "before the settings", "before the tasks", "once configured", "once finalized"]


class Settings:
    """What Django's settings would say."""

    CELERY_BROKER_URL = "memory://"
    CELERY_LEADER_BACKEND = "memory://"
    CELERY_TASK_ROUTES: ClassVar = {"plain": {"queue": "plains"}}


def run_anything() -> None:
    """Stand for a task's code, which no test here runs."""


def made_app(moment: str) -> Celery:
    """Return an app as a project makes it, set up at *moment*."""

    def reached(now: str) -> None:
        if moment == now:
            celery_leader.setup(app)

    app = Celery("proj", set_as_current=False)
    reached("first")
    app.conf.task_default_queue = "ours"
    reached("before the settings")
    app.config_from_object(Settings, namespace="CELERY")
    reached("before the tasks")
    app.task(name="guarded", shared=False)(leader_only(run_anything))
    app.task(name="plain", shared=False)(run_anything)
    assert not app.configured
    if moment in {"once configured", "once finalized"}:
        assert app.conf.task_default_queue == "ours"
        reached("once configured")
    if moment == "once finalized":
        app.finalize()
        reached("once finalized")
    return app


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read, opened and checked, one after the other."""
    done: list[str] = []
    from_app, check = LeaderSettings.from_app.__func__, MemoryBackend.check  # type: ignore[attr-defined]

    def read(cls: type[LeaderSettings], app: Any) -> LeaderSettings:
        done.append("settings read")
        return from_app(cls, app)  # type: ignore[no-any-return]

    def open_counted(*args: Any, **kwargs: Any) -> MemoryBackend:
        done.append("store opened")
        return open_memory(*args, **kwargs)

    def check_counted(backend: MemoryBackend) -> None:
        done.append("store checked")
        check(backend)

    monkeypatch.setattr("celery_leader.django.checks.apps_set_up", ())  # Celery runs Django's checks at a start
    monkeypatch.setattr(LeaderSettings, "from_app", classmethod(read))
    monkeypatch.setattr(MemoryBackend, "check", check_counted)
    monkeypatch.setattr(urls, "_load", lambda *args: open_counted)
    return done


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", ["delay", "send_task"])
def test_a_publisher_sends_guarded_tasks_to_the_leader(moment: str, how: str, opened: list[str]) -> None:
    """A web process, say: it needs no store, and the app's own routes still count."""
    app = made_app(moment)
    app.tasks["guarded"].delay() if how == "delay" else app.send_task("guarded")
    app.tasks["plain"].delay() if how == "delay" else app.send_task("plain")
    assert len(taken(app, leader_queue(app, "default"))) == 1
    assert len(taken(app, app.amqp.queues["plains"])) == 1
    assert sum(isinstance(route, LeaderRouter) for route in app.conf.task_routes) == 1
    assert not app.tasks["plain"].acks_late
    assert opened == []


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("options", [{}, {"without_leader": True}], ids=["takes part", "takes none"])
def test_a_worker_receives_guarded_tasks(moment: str, options: dict[str, Any]) -> None:
    """Late acknowledgement, our reception and our routes, whether it takes part or not."""
    app = made_app(moment)
    worker = LocalWorker(app, **options)
    try:
        assert app.tasks["guarded"].acks_late
        assert isinstance(app.tasks["guarded"].Strategy, GuardedStrategy)
        assert not app.tasks["plain"].acks_late
        assert [type(route) for route in app.conf.task_routes] == [LeaderRouter, dict]
        worker.connect()
        assert worker.consumer.leader_reception
        assert (worker.leadership is None) is bool(options)
    finally:
        worker.stop()


def test_a_worker_reads_its_settings_and_opens_its_store_once(
    make_worker: Callable[..., LocalWorker], opened: list[str]
) -> None:
    """The candidates, the beat and the checks of wrong states share them."""
    worker = make_worker(leader_beat=True)
    worker.start()
    assert opened == ["settings read", "store opened", "store checked"]


def test_a_worker_that_takes_no_part_asks_no_store(make_worker: Callable[..., LocalWorker], opened: list[str]) -> None:
    """It is there for the checks of wrong states, which ask later."""
    make_worker(without_leader=True)
    assert opened == ["settings read", "store opened"]


def test_setting_up_or_wiring_twice_changes_nothing(app: Celery, make_worker: Callable[..., LocalWorker]) -> None:
    """Two modules of a project may each do it; a process may have two workers."""
    celery_leader.setup(app)
    make_worker()
    make_worker(hostname="v@here")
    receive_guarded_tasks(app)
    assert [type(route) for route in app.conf.task_routes] == [LeaderRouter]
    assert not isinstance(app.tasks["guarded"].Strategy._inner, GuardedStrategy)
    names = [option.name for option in app.user_options["worker"]]
    assert names.count("without_leader") == names.count("leader_beat") == 1
