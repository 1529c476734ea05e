"""A worker's part in its elections, from the start of its steps to the end: what they tell each other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.signals import worker_shutting_down

import celery_leader
from celery_leader.beat.embedded import EmbeddedBeat
from celery_leader.election import Candidacy, ElectionRecord
from celery_leader.exceptions import StoreUnavailable
from celery_leader.leadership import state
from celery_leader.leadership.campaign import Campaign
from celery_leader.worker.control import leader_status
from celery_leader.worker.leadership import wire
from celery_leader.worker.readiness import MAX_LOOP_AGE
from celery_leader.worker.reception import Reception
from tests.waiting import eventually
from tests.worker.conftest import LocalWorker, leader_threads

MakeWorker = Callable[..., LocalWorker]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Candidacy]:
    """What electors are told of the worker's candidacy, attempt by attempt."""
    answers: list[Candidacy] = []
    candidacy = Campaign.candidacy

    def note(campaign: Campaign) -> Candidacy:
        answers.append(candidacy(campaign))
        return answers[-1]

    monkeypatch.setattr(Campaign, "candidacy", note)
    return answers


def stored(worker: LocalWorker) -> ElectionRecord:
    """Return the record of the default election."""
    return worker.leadership.campaign.backend.lock("default").get().record


# -- ready -------------------------------------------------------------------------------------------------------------


def test_a_worker_leads_as_soon_as_its_consumer_is_ready(asked: list[Candidacy], worker: LocalWorker) -> None:
    """Until then it observes. The next attempt would be 25 seconds away."""
    connect = worker.connect

    def connect_late() -> None:
        eventually(lambda: asked)
        assert set(asked) == {Candidacy.OBSERVE}
        connect()

    worker.consumer.start = connect_late
    worker.start()
    eventually(worker.candidate.leading.is_set, 5)


def test_a_reconnect_is_no_second_start(worker: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The electors are not woken again, and one timer tells that the main loop turns."""
    woken: list[bool] = []
    monkeypatch.setattr(worker.leadership.campaign, "wake", lambda: woken.append(True))
    for _ in range(3):
        worker.connect()
        assert worker.heartbeats() == 1
        worker.disconnect()
        assert worker.heartbeats() == 0
    assert len(woken) == 1


def test_what_is_held_is_forgotten_with_its_connection(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has it back: by a worker that leads, and by one that takes no part."""
    stopped: list[Reception] = []

    def stop(reception: Reception) -> None:
        stopped.append(reception)

    monkeypatch.setattr(Reception, "stop", stop)
    for options in ({}, {"without_leader": True}):
        worker = make_worker(**options)
        worker.connect()
        assert stopped == []
        worker.disconnect()
        assert stopped == [worker.consumer.leader_reception]
        stopped.clear()


def test_the_main_loop_tells_that_it_turns(worker: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer only asks it to: a thread of its own would tell of a loop that stands still."""
    worker.connect()
    readiness, now = worker.leadership.readiness, [1000.0]
    monkeypatch.setattr("celery_leader.worker.readiness.time.monotonic", lambda: now[0])
    monkeypatch.setattr(readiness, "_watches_loop", True)
    (beat,) = [each for *_, each in worker.controller.timer.queue if each.args == (readiness.loop_turned,)]
    readiness.loop_turned()
    now[0] += 1000
    beat.fun(*beat.args)
    assert readiness.candidacy() is Candidacy.OBSERVE
    worker.turn()
    assert readiness.candidacy() is Candidacy.CONTEND


@pytest.mark.parametrize(("pool", "watches"), [("solo", False), ("threads", True), ("prefork", True)])
def test_the_main_loop_is_watched_where_it_runs_no_tasks(
    app: Celery, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, pool: str, watches: bool
) -> None:
    """In solo it waits for each task. It may stand still as long as the longest lease."""
    app.conf.leader_elections = {"short": {"lease_duration": 9, "renew_deadline": 6, "retry_period": 1}, "default": {}}
    now = [0.0]
    monkeypatch.setattr("celery_leader.worker.readiness.time.monotonic", lambda: now[0])
    readiness = make_worker(pool_cls=pool).leadership.readiness
    readiness.loop_turned()
    now[0] = MAX_LOOP_AGE + 59  # a lease is 90 s
    assert readiness.candidacy() is Candidacy.CONTEND
    now[0] = 91
    assert readiness.candidacy() is (Candidacy.OBSERVE if watches else Candidacy.CONTEND)


def test_readiness_need_not_be_asked_for(app: Celery, make_worker: MakeWorker) -> None:
    """``leader_require_ready = False``: a worker may lead without a broker."""
    assert make_worker().leadership.campaign.candidacy() is Candidacy.OBSERVE
    app.conf.leader_require_ready = False
    assert make_worker().leadership.campaign.candidacy() is Candidacy.CONTEND


def test_who_is_not_eligible_never_leads(app: Celery, make_worker: MakeWorker, asked: list[Candidacy]) -> None:
    """``leader_eligible = False``: a worker that is ready observes, and the record stays nobody's."""
    app.conf.leader_eligible = False
    worker = make_worker()
    worker.start()
    assert worker.leadership.readiness.candidacy() is Candidacy.CONTEND
    for _ in range(3):  # the second attempt ends before the third begins
        attempts = len(asked)
        worker.leadership.campaign.wake()
        eventually(lambda before=attempts: len(asked) > before, 5)  # type: ignore[misc]  # a default binds it
    assert set(asked) == {Candidacy.OBSERVE}
    assert not worker.candidate.leading.is_set()
    assert not celery_leader.is_leader()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_stop_gives_the_lease_back_and_ends_everything(worker: LocalWorker) -> None:
    """A warm one, by Celery's own hooks: no thread, no timer and no belief stays."""
    worker.start()
    eventually(worker.candidate.leading.is_set, 5)
    assert set(leader_threads()) >= {"celery-leader-default", "celery-leader-watch"}  # nobody leads reports
    assert stored(worker).holder_identity == worker.leadership.campaign.identity
    assert celery_leader.is_leader()
    worker.controller.stop()
    assert stored(worker).holder_identity == ""
    assert not celery_leader.is_leader()
    assert state._known_trusts() == {}
    eventually(lambda: not leader_threads())


def test_the_last_hook_of_a_shutdown_gives_the_lease_back(worker: LocalWorker) -> None:
    """A cold one closes nothing before."""
    worker.start()
    eventually(worker.candidate.leading.is_set, 5)
    worker.consumer.shutdown()
    assert stored(worker).holder_identity == ""
    assert not worker.candidate.thread.is_alive


def test_a_drain_lets_nothing_begin_and_waits_for_what_runs(
    worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is held for as long as guarded work runs; nothing else is acquired meanwhile."""
    running = [True]
    monkeypatch.setattr("celery_leader.worker.leadership.runs_guarded_work", lambda election: running[0])
    worker.start()
    eventually(worker.candidate.leading.is_set, 5)
    worker.leadership.drain()
    assert worker.leadership.readiness.candidacy() is Candidacy.HOLD
    assert not state.accepts_work("default")
    assert celery_leader.is_leader()
    running[0] = False
    worker.candidate.thread.ring()
    eventually(lambda: not stored(worker).holder_identity, 5)


def test_a_signal_is_enough_to_begin_no_more(worker: LocalWorker) -> None:
    """The main loop may wait for its broker then; the electors' threads act at once."""
    worker.start()
    eventually(worker.candidate.leading.is_set, 5)
    worker_shutting_down.send(sender="w@here", sig="TERM", how="Warm", exitcode=0)
    assert worker.leadership.readiness.candidacy() is Candidacy.HOLD
    assert not state.accepts_work("default")
    eventually(lambda: not stored(worker).holder_identity, 5)


def test_each_worker_of_a_process_hears_of_a_shutdown(make_worker: MakeWorker) -> None:
    """Celery before 5.7 takes a method of two objects for one receiver."""
    first, second = make_worker(), make_worker(hostname="v@here")
    worker_shutting_down.send(sender="w@here", sig="TERM", how="Warm", exitcode=0)
    assert first.leadership.readiness.shutting_down
    assert second.leadership.readiness.shutting_down


def test_a_worker_that_is_gone_hears_nothing(make_worker: MakeWorker) -> None:
    """Nothing disconnects it, since a signal handler may wait for the lock that this takes; nothing keeps it alive."""
    controller = make_worker(without_leader=True).controller
    leadership = wire(controller, takes_part=True, with_beat=False, has_other_beat=False)[0]
    assert leadership
    leadership.stop()
    gone = weakref.ref(leadership)
    del leadership
    gc.collect()
    assert gone() is None


def test_close_is_a_drain(worker: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery closes all steps before it stops the first: messages that have not begun go back then."""
    let_go: list[Any] = []
    monkeypatch.setattr("celery_leader.worker.bootsteps.let_go_of_messages", let_go.append)
    worker.start()
    worker.controller.blueprint.close(worker.controller)
    assert worker.leadership.readiness.shutting_down
    assert let_go == [worker.controller]


def test_a_closing_worker_has_no_term_to_begin_work_in(worker: LocalWorker) -> None:
    """A beat sends by it. The lease is held all the same."""
    worker.lead()
    assert worker.candidate.term
    worker.leadership.campaign.close_to_new_work()
    assert worker.candidate.term is None
    assert worker.candidate.elector.is_leader()


# -- busy --------------------------------------------------------------------------------------------------------------


def test_a_busy_beat_keeps_its_own_lease_only(
    app: Celery, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that decides which beat sends; guarded work keeps any."""
    app.conf.update(leader_beat=True, leader_elections=["default", "reports"])
    campaign = make_worker().leadership.campaign
    assert not campaign.is_busy("default")
    monkeypatch.setattr(EmbeddedBeat, "is_busy", True)
    assert campaign.is_busy("default")
    assert not campaign.is_busy("reports")
    monkeypatch.setattr("celery_leader.worker.leadership.runs_guarded_work", lambda election: election == "reports")
    assert campaign.is_busy("reports")
    monkeypatch.setattr(EmbeddedBeat, "is_busy", False)
    assert not campaign.is_busy("default")


# -- what it says ------------------------------------------------------------------------------------------------------


def test_a_worker_says_what_it_believes(worker: LocalWorker) -> None:
    """By ``inspect leader_status`` and in ``inspect stats``, without asking the store."""
    worker.connect()
    follower = {
        "leading": False, "leader": "", "identity": worker.leadership.campaign.identity, "fencing_token": None,
        "trouble": "",
    }  # fmt: skip
    assert said(worker) == {"default": follower}
    assert follower["identity"].startswith("w@here/")
    worker.lead()
    term = worker.candidate.term
    assert term
    eventually(worker.candidate.shared_trust.leader)
    leader = {"leading": True, "leader": term.identity, "fencing_token": term.fencing_token}
    assert said(worker) == {"default": {**follower, **leader}}
    assert worker.controller.stats()["leader"] == said(worker)
    worker.resign()
    assert said(worker)["default"]["leading"] is False


def test_a_worker_says_what_troubles_it(worker: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why nobody is elected: in the store's own words."""
    assert said(worker)["default"]["trouble"] == ""

    def fail() -> None:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(worker.candidate.elector.lock, "get", fail)
    assert not worker.candidate.elector.try_acquire_or_renew()
    assert "the store is away" in said(worker)["default"]["trouble"]


def test_who_takes_no_part_says_nothing(make_worker: MakeWorker) -> None:
    """An answer all the same: the command tells it from a worker that is away."""
    assert said(make_worker(without_leader=True)) == {}


def said(worker: LocalWorker) -> Any:
    """Return what a worker answers to ``inspect leader_status``."""

    class Panel:
        consumer = worker.consumer

    return leader_status(Panel)["elections"]
