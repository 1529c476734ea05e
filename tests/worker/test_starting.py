"""What a worker takes part in, by its settings and options, and why it does not start."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.signals import task_received, worker_shutting_down

import celery_leader
from celery_leader import leader_only
from celery_leader.backends.memory import MemoryBackend
from celery_leader.beat.second_sender import SecondSenders
from celery_leader.election import SystemClock, Term, Trust
from celery_leader.exceptions import ConfigurationError, StoreUnavailable
from celery_leader.leadership import state
from celery_leader.leadership.shared_trust import SharedTrust
from celery_leader.refusal import StartRefused
from celery_leader.tasks.leader_only import LeaderRouter
from celery_leader.worker.reception import GuardedStrategy
from tests.waiting import eventually
from tests.worker.conftest import LocalWorker, leader_threads

MakeWorker = Callable[..., LocalWorker]


def run_anything() -> None:
    """Stand for a task's code, which no test here runs."""


@pytest.mark.parametrize(
    ("settings", "options", "elections", "beats"),
    [
        ({}, {}, ["default"], False),
        ({}, {"leader_beat": True}, ["default", "beat"], True),
        ({"leader_beat": True}, {}, ["default"], True),
        ({"leader_beat": True}, {"without_leader": True}, None, False),
        ({"leader_elections": ["reports"]}, {"leader_beat": True}, ["reports", "beat"], True),
        ({"leader_elections": ["reports"], "leader_beat": True}, {}, ["reports", "default"], True),
    ],
)
def test_settings_and_options_say_what_a_worker_takes_part_in(
    app: Celery,
    make_worker: MakeWorker,
    settings: dict[str, Any],
    options: dict[str, Any],
    elections: list[str] | None,
    beats: bool,
) -> None:
    """And whether it has a beat, whose step is there for no other worker."""
    app.conf.update(settings)
    worker = make_worker(**options)
    labels = [step.label for step in worker.controller.steps]
    assert ("Leader beat" in labels) is beats
    if elections is None:
        assert worker.leadership is None
    else:
        assert list(worker.leadership.campaign.candidates) == elections
        assert (worker.leadership.beat is not None) is beats


def test_a_beat_runs_from_the_start_to_the_end_of_its_worker(app: Celery, make_worker: MakeWorker) -> None:
    """Its counts are part of what the worker says of the beat's election."""
    app.conf.leader_beat = True
    worker = make_worker()
    assert "celery-leader-beat" not in leader_threads()
    worker.start()
    assert "celery-leader-beat" in leader_threads()
    assert set(worker.leadership.status()["default"]["ticks"]) >= {"sent"}
    worker.controller.stop()
    eventually(lambda: not leader_threads())


def test_a_worker_without_a_leader_takes_no_part(make_worker: MakeWorker) -> None:
    """``--without-leader``: its electors, its threads and its answers are nobody's."""
    worker = make_worker(without_leader=True)
    worker.start()
    assert worker.leadership is None
    assert state._known_trusts() == {}
    assert not [name for name in leader_threads() if name != "celery-leader-watch"]
    assert worker.controller.stats().get("leader") is None
    worker_shutting_down.send(sender="w@here", sig="TERM", how="Warm", exitcode=0)
    worker.controller.stop()


def test_a_worker_without_a_leader_forgets_whose_child_it_is(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that leads may have started it: it has that one's environment, and hands on nothing of it."""
    shared_trust, now = SharedTrust.create(in_file=True), SystemClock().monotonic()
    try:
        shared_trust.publish(Trust(Term("default", "the other", 1), renewed_at=now, until=now + 60))
        monkeypatch.setattr(state, "_trusts", None)
        monkeypatch.setenv(state.TRUSTS_VARIABLE, json.dumps({"default": str(shared_trust.path)}))
        make_worker(without_leader=True)
        assert not celery_leader.is_leader()
        assert state.TRUSTS_VARIABLE not in os.environ
    finally:
        shared_trust.unlink()


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        ({}, {"without_leader": True, "leader_beat": True}, "--leader-beat and --without-leader contradict"),
        ({}, {"leader_beat": True, "beat": True}, "-B starts a beat that follows no leader"),
        ({"leader_beat": True}, {"beat": True}, "-B starts a beat that follows no leader"),
        ({"leader_beat": True}, {"beat": True, "without_leader": True}, "-B starts a beat that follows no leader"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    app: Celery, make_worker: MakeWorker, settings: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    """Before anything is forked."""
    app.conf.update(settings)
    with pytest.raises(StartRefused, match=says):
        make_worker(**options)


def test_a_wrong_setting_is_refused(app: Celery, make_worker: MakeWorker) -> None:
    """A worker that started all the same would never lead."""
    app.conf.leader_lease = 5
    with pytest.raises(StartRefused, match="Unknown setting leader_lease"):
        make_worker()


def test_a_worker_that_takes_no_part_needs_no_store(
    app: Celery, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """It only can't check whether others lead, and says so."""
    caplog.set_level("INFO", "celery_leader")
    app.conf.leader_backend = "nowhere://"
    worker = make_worker(without_leader=True)
    worker.start()
    assert leader_threads() == []
    assert "can't check whether its guarded and periodic tasks have a leader: leader_backend names no" in caplog.text


@pytest.mark.parametrize("without_leader", [True, False])
def test_a_check_that_can_not_be_made_keeps_no_worker_from_starting(
    app: Celery,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    without_leader: bool,
) -> None:
    """The name of a guarded task's election is too long for the store, say, and this worker is no candidate in it."""
    caplog.set_level("INFO", "celery_leader")
    lock = MemoryBackend.lock

    def short(backend: MemoryBackend, election: str) -> Any:
        if election == "reports":
            raise ConfigurationError("The name is too long.")
        return lock(backend, election)

    monkeypatch.setattr(MemoryBackend, "lock", short)
    make_worker(without_leader=without_leader).start()
    assert "can't check whether its guarded and periodic tasks have a leader: The name is too long." in caplog.text


def test_a_store_that_can_not_be_used_is_refused(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start, unless it may be usable later: one that is away is only warned of."""
    answers: list[Exception] = [ConfigurationError("not migrated"), StoreUnavailable("it is away")]

    def fail(backend: MemoryBackend) -> None:
        raise answers.pop(0)

    monkeypatch.setattr(MemoryBackend, "check", fail)
    with pytest.raises(StartRefused, match="not migrated"):
        make_worker()
    assert make_worker().leadership
    assert "Nobody can be elected for now: it is away" in caplog.text


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_that_are_spawned_read_a_file(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """They inherit no memory. It goes with the worker."""
    monkeypatch.setattr("billiard.get_start_method", lambda: method)
    worker = make_worker()
    path = worker.candidate.shared_trust.path
    assert (path is not None) is (method == "spawn")
    worker.stop()
    assert path is None or not path.exists()


def test_routes_that_were_set_later_come_after_ours(app: Celery, make_worker: MakeWorker) -> None:
    """What a worker itself sends to a leader goes to its queue."""
    app.conf.task_routes = {"guarded": {"queue": "celery"}}
    make_worker()
    assert isinstance(app.conf.task_routes[0], LeaderRouter)
    assert app.conf.task_routes[1:] == [{"guarded": {"queue": "celery"}}]


def test_tasks_that_were_made_late_are_guarded_too(app: Celery, make_worker: MakeWorker) -> None:
    """Their messages are acknowledged late, and received by us, before the first one comes."""
    late = app.task(name="late", shared=False)(leader_only(run_anything))
    make_worker(without_leader=True)
    assert app.tasks["late"].acks_late
    assert isinstance(late.Strategy, GuardedStrategy)


def test_a_hidden_guard_is_told_of(app: Celery, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture) -> None:
    """When the worker starts: its task would run anywhere."""

    def hide(function: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            function()

        return call

    app.task(name="hidden", shared=False)(hide(leader_only(run_anything)))
    worker = make_worker(without_leader=True)
    assert "hidden is not guarded" not in caplog.text
    worker.start()
    assert "hidden is not guarded" in caplog.text


def test_what_a_worker_receives_is_looked_at(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """For ticks that somebody else sends."""
    seen: list[Any] = []
    monkeypatch.setattr(SecondSenders, "received", lambda self, request, **_: seen.append(request))
    worker = make_worker()
    task_received.send(sender=worker.consumer, request="a request")
    assert seen == ["a request"]
