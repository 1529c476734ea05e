"""The beat: only the leader's sends, each tick once, and none is forgotten."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from celery.beat import Scheduler, SchedulingError

from celery_leader.backends.memory import MemoryLedger
from celery_leader.beat.scheduler import LeaderScheduler, leader_scheduler
from celery_leader.exceptions import StoreUnavailable
from celery_leader.ledger import Tick
from tests.beat.machines import EACH_MINUTE, EVERY_TEN, Machines, dues


def test_a_standby_sends_nothing_and_touches_no_schedule(machines: Machines) -> None:
    """Neither at its start nor in a tick."""
    machines.schedule = EVERY_TEN
    standby = machines.add()
    machines.wall.advance(60)
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        assert standby.scheduler.tick() == 0
    assert machines.sent() == []
    assert standby.scheduler.schedule == {}
    assert dict(machines.ledger.open(1)) == {}


@pytest.mark.parametrize("leads_without_ledger", [False, True])
def test_a_beat_that_may_not_send_does_not_spin(machines: Machines, leads_without_ledger: bool) -> None:
    """It waits for leadership; or, while its ledger does not answer, for the end of its term, half as long."""
    machines.schedule = EVERY_TEN
    beat = machines.add()
    if leads_without_ledger:
        beat.lead()
    away = mock.patch.object(MemoryLedger, "open", side_effect=StoreUnavailable("away"))
    begun = time.monotonic()
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.2), away:
        assert beat.scheduler.tick() == 0
    assert time.monotonic() - begun >= 0.9 * (0.1 if leads_without_ledger else 0.2)


def test_the_leader_sends_what_is_due(machines: Machines) -> None:
    """Each tick names itself: due time, token and an id that follows from both."""
    machines.schedule = EVERY_TEN
    leader = machines.add()
    token = leader.lead()
    leader.tick_until_idle()
    assert machines.sent() == []
    machines.wall.advance(10)
    leader.tick_until_idle()
    (headers,) = machines.sent()
    assert dues([headers]) == [10]
    assert headers["leader_token"] == str(token)
    claim = machines.ledger.open(token)["ten"]
    assert (claim.task_id, claim.sent, claim.run_count) == (headers["id"], True, 1)


def test_the_next_leader_goes_on_where_the_last_one_stopped(machines: Machines) -> None:
    """An entry that was due once is not due again, and one that has waited does not start afresh."""
    machines.schedule = {**EVERY_TEN, **EACH_MINUTE, "hour": {"task": "t.hour", "schedule": 3600.0}}
    first = machines.leader()
    machines.wall.advance(30)
    first.tick_until_idle()
    assert sorted(each["task"] for each in machines.sent()) == ["t.minute", "t.ten"]
    second = machines.add()
    first.resign()
    second.lead()
    second.tick_until_idle()
    assert machines.sent() == []
    machines.wall.advance(3600 - 30)
    second.tick_until_idle()
    hours = [each for each in machines.sent() if each["task"] == "t.hour"]
    assert dues(hours) == [3600]


@pytest.mark.parametrize("moment", ["before send", "before confirm"])
def test_a_tick_whose_leader_died_on_it_is_sent_by_the_next(machines: Machines, moment: str) -> None:
    """With the same id, so that whoever looks at ids sees one tick."""
    machines.schedule = EVERY_TEN
    first = machines.leader()
    machines.wall.advance(10)
    place = (first.scheduler.app, "send_task") if moment == "before send" else (machines.ledger, "confirm")
    with mock.patch.object(*place, side_effect=SystemExit), pytest.raises(SystemExit):
        first.scheduler.tick()
    sent_by_first = machines.sent()
    claimed = machines.ledger._claims["ten"]
    second = machines.add()
    first.resign()
    second.lead()
    second.tick_until_idle()
    (headers,) = machines.sent()
    assert headers["id"] == claimed.task_id
    assert {each["id"] for each in sent_by_first} <= {claimed.task_id}
    second.tick_until_idle()
    assert machines.sent() == []


def test_a_deposed_leader_claims_and_sends_nothing(machines: Machines) -> None:
    """Even when it was held up between its last look at the clock and the claim."""
    machines.schedule = EVERY_TEN
    old, new = machines.add(), machines.add()
    old.lead()
    old.tick_until_idle()
    term = old.campaign.candidates["default"].term
    old.resign()
    new.lead()
    new.tick_until_idle()
    machines.wall.advance(10)
    with mock.patch.object(type(old.campaign.candidates["default"]), "term", term):
        old.scheduler.tick()
    assert machines.sent() == []
    new.tick_until_idle()
    assert dues(machines.sent()) == [10]


def test_a_tick_that_is_claimed_already_is_not_sent(machines: Machines) -> None:
    """The ledger has the last word, and tells where to go on."""
    machines.schedule = EVERY_TEN
    machine = machines.add()
    token = machine.lead()
    machine.tick_until_idle()
    machines.wall.advance(10)
    (before,) = machines.ledger.open(token).values()
    tick = Tick("default", "ten", machines.wall.now)
    assert machines.ledger.claim(token, [replace(before, tick=tick, claimed_at=machines.wall.now, sent=True)]) == [True]
    machine.tick_until_idle()
    assert machines.sent() == []
    machines.wall.advance(10)
    machine.tick_until_idle()
    assert dues(machines.sent()) == [20]


def test_missed_ticks_become_one(machines: Machines) -> None:
    """However long nobody led: one run now, then the usual rhythm."""
    machines.schedule = {**EVERY_TEN, **EACH_MINUTE}
    first = machines.leader()
    first.resign()
    machines.wall.advance(1000)
    second = machines.add()
    second.lead()
    second.tick_until_idle()
    assert sorted(each["task"] for each in machines.sent()) == ["t.minute", "t.ten"]


def test_missed_runs_of_many_entries_are_one_line(machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
    """After an outage every entry has missed some: thousands of warnings would bury everything else."""
    machines.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(50)}
    leader = machines.leader()
    machines.wall.advance(35)
    leader.tick_until_idle()
    [line] = [each.getMessage() for each in caplog.records if "missed run" in each.getMessage()]
    assert line.startswith("Election 'default': 100 missed runs of e")
    assert line.endswith("more let go")
    assert leader.scheduler.counts.missed == 100


def test_hundreds_that_are_due_together_are_sent_once_each(machines: Machines) -> None:
    """In batches, in few calls of the ledger, and an hour later again."""
    machines.schedule = {f"e{number}": {"task": "t.many", "schedule": 3600.0} for number in range(240)}
    leader = machines.add()
    for _ in range(3):
        leader.lead()
        with (
            mock.patch("celery_leader.beat.batch.BATCH", 100),
            mock.patch.object(MemoryLedger, "claim", autospec=True, side_effect=MemoryLedger.claim) as claim,
        ):
            leader.tick_until_idle()
        if messages := machines.sent():
            assert claim.call_count == 3
            assert len({each["id"] for each in messages}) == 240
        machines.wall.advance(3600)
    assert leader.scheduler.counts.sent == 480


def test_a_stop_that_comes_in_a_batch_leaves_the_rest_to_the_next(machines: Machines) -> None:
    """A worker that stops does not send hundreds of messages first."""
    machines.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(50)}
    first, second = machines.add(), machines.add()
    first.lead()
    first.tick_until_idle()
    machines.wall.advance(10)
    send_task = first.scheduler.app.send_task

    def send_and_stop(*args: Any, **kwargs: Any) -> Any:
        result = send_task(*args, **kwargs)
        if first.scheduler.counts.sent == 9:
            first.campaign.close_to_new_work()
        return result

    with (
        mock.patch.object(first.scheduler.app, "send_task", send_and_stop),
        mock.patch("celery_leader.beat.leading.ENDING_TIME", 0),
    ):
        first.scheduler.tick()
    sent = machines.sent()
    assert len(sent) == 10
    first.resign()
    second.lead()
    second.tick_until_idle()
    sent += machines.sent()
    assert len(sent) == len({each["id"] for each in sent}) == 50


def test_a_stop_that_comes_after_a_claim_leaves_it_to_nobody(machines: Machines) -> None:
    """What was claimed is sent while there is trust: the next leader may come much later."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    machines.wall.advance(10)
    claim = machines.ledger.claim

    def claim_and_stop(*args: Any) -> Any:
        leader.campaign.close_to_new_work()
        return claim(*args)

    with mock.patch.object(machines.ledger, "claim", claim_and_stop):
        leader.scheduler.tick()
    assert dues(machines.sent()) == [10]
    machines.wall.advance(10)
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        leader.scheduler.tick()
    assert machines.sent() == []


def test_entries_keep_their_options(machines: Machines) -> None:
    """Headers and options of the entry travel with every tick, and the entry stays as it was."""
    options = {"headers": {"mine": 1}, "priority": 3}
    machines.schedule = {"ten": {"task": "t.ten", "schedule": 10.0, "options": options}}
    leader = machines.leader()
    for _ in range(2):
        machines.wall.advance(10)
        leader.tick_until_idle()
    messages = machines.sent()
    assert [each["mine"] for each in messages] == [1, 1]
    assert len({each["id"] for each in messages}) == 2
    assert options == {"headers": {"mine": 1}, "priority": 3}


def test_closing_twice_is_harmless() -> None:
    """Celery does: in its signal handler, and at its end."""
    from celery import Celery

    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://")
    scheduler = LeaderScheduler(app=app)
    scheduler.close()
    scheduler.close()


@pytest.mark.parametrize("workers_have_beats", [True, False])
def test_a_beat_of_its_own_beside_workers_with_beats_is_warned_of(
    caplog: pytest.LogCaptureFixture, workers_have_beats: bool
) -> None:
    """It can win the workers' election, and is none: nobody would run what is reserved for their leader."""
    from celery import Celery

    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://beside", leader_beat=workers_have_beats)
    LeaderScheduler(app=app).close()
    assert ("start no standalone beat" in caplog.text) is workers_have_beats


def test_a_beat_of_its_own_on_memory_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A second one would lead as well, and neither could notice."""
    from celery import Celery

    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://alone")
    LeaderScheduler(app=app).close()
    assert "this beat keeps its election in its own memory" in caplog.text


def test_a_lazy_scheduler_has_no_side_effect() -> None:
    """``celery beat`` makes one to print its banner."""
    import threading

    from celery import Celery

    from celery_leader.leadership import state

    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", beat_schedule=EVERY_TEN)
    before = threading.active_count()
    scheduler = LeaderScheduler(app=app, lazy=True)
    assert "beat" in scheduler.info
    assert scheduler.schedule == {}
    assert threading.active_count() == before
    assert state._known_trusts() == {}


@pytest.mark.parametrize("base", [Scheduler, "celery.beat:Scheduler", "celery.beat.Scheduler", "leader"])
def test_a_scheduler_is_made_a_leaders_once(base: Any) -> None:
    """Whether it is named by class, by path or by a short name; a leader's is not made another one."""
    made = leader_scheduler(base)
    assert issubclass(made, Scheduler)
    assert made is leader_scheduler(base) is leader_scheduler(made) is LeaderScheduler


@pytest.mark.parametrize("edit", ["add", "update_from_dict", "merge_inplace"])
def test_an_entry_that_is_replaced_in_memory_counts_at_once(machines: Machines, edit: str) -> None:
    """By each of Celery's methods, though the schedule has as many entries as before."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    faster = {"task": "t.faster", "schedule": 2.0}
    if edit == "add":
        leader.scheduler.add(name="ten", **faster, last_run_at=machines.wall.now)
    else:
        getattr(leader.scheduler, edit)({"ten": {**faster, "last_run_at": machines.wall.now}})
    leader.tick_until_idle()
    machines.wall.advance(2)
    leader.tick_until_idle()
    assert [each["task"] for each in machines.sent()] == ["t.faster"]


def test_a_closed_beat_sends_nothing_and_releases_its_connection(machines: Machines) -> None:
    """Whoever still holds the scheduler gets Celery's error."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    entry = leader.scheduler.schedule["ten"]
    connection = leader.scheduler.connection
    with mock.patch.object(connection, "release") as release:
        leader.scheduler.close()
    assert release.called
    with pytest.raises(SchedulingError, match="does not lead"):
        leader.scheduler.apply_async(entry)
    assert machines.sent() == []


class Synced(Scheduler):
    """Counts how often it is written."""

    written = 0

    def sync(self) -> None:
        self.written += 1


def test_a_base_is_written_as_often_as_celery_says(machines: Machines) -> None:
    """By the leader: each ``sync_every`` seconds, and no more often."""
    machines.schedule = EVERY_TEN
    leader = machines.leader(f"{__name__}:Synced")
    before = leader.scheduler.written
    leader.scheduler.tick()
    assert leader.scheduler.written == before
    leader.scheduler.sync_every = 0
    leader.scheduler.tick()
    assert leader.scheduler.written == before + 1
