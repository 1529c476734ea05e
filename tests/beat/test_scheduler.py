"""The beat: only the leader's sends, each tick once, and none is forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any
from unittest import mock

import pytest
from celery.beat import Scheduler
from celery.schedules import crontab

from celery_leader.backends.memory import MemoryLedger
from celery_leader.beat.scheduler import LeaderScheduler, leader_scheduler
from celery_leader.ledger import Tick
from tests.beat.conftest import START, Fleet

EVERY_TEN = {"ten": {"task": "t.ten", "schedule": 10.0}}
EACH_MINUTE = {"minute": {"task": "t.minute", "schedule": crontab()}}


def dues(headers: list[dict[str, Any]]) -> list[float]:
    """Return when the ticks of *headers* were due, in seconds after the start."""
    return [(datetime.fromisoformat(each["leader_due_at"]) - START).total_seconds() for each in headers]


def test_a_standby_sends_nothing_and_touches_no_schedule(fleet: Fleet) -> None:
    """Neither at its start nor in a tick."""
    fleet.schedule = EVERY_TEN
    standby = fleet.machine()
    fleet.wall.advance(60)
    with mock.patch("celery_leader.beat.mixin.STANDBY_WAIT", 0.01):
        assert standby.scheduler.tick() == 0
    assert fleet.sent() == []
    assert standby.scheduler.schedule == {}
    assert dict(fleet.ledger.open(1)) == {}


def test_the_leader_sends_what_is_due(fleet: Fleet) -> None:
    """Each tick names itself: due time, token and an id that follows from both."""
    fleet.schedule = EVERY_TEN
    leader = fleet.machine()
    token = leader.lead()
    leader.tick_until_idle()
    assert fleet.sent() == []
    fleet.wall.advance(10)
    leader.tick_until_idle()
    (headers,) = fleet.sent()
    assert dues([headers]) == [10]
    assert headers["leader_token"] == str(token)
    claim = fleet.ledger.open(token)["ten"]
    assert (claim.task_id, claim.sent, claim.run_count) == (headers["id"], True, 1)


def test_the_next_leader_goes_on_where_the_last_one_stopped(fleet: Fleet) -> None:
    """An entry that was due once is not due again, and one that has waited does not start afresh."""
    fleet.schedule = {**EVERY_TEN, **EACH_MINUTE, "hour": {"task": "t.hour", "schedule": 3600.0}}
    first = fleet.machine()
    first.lead()
    first.tick_until_idle()
    fleet.wall.advance(30)
    first.tick_until_idle()
    assert sorted(each["task"] for each in fleet.sent()) == ["t.minute", "t.ten"]
    second = fleet.machine()
    first.resign()
    second.lead()
    second.tick_until_idle()
    assert fleet.sent() == []
    fleet.wall.advance(3600 - 30)
    second.tick_until_idle()
    hours = [each for each in fleet.sent() if each["task"] == "t.hour"]
    assert dues(hours) == [3600]


@pytest.mark.parametrize("moment", ["before send", "before confirm"])
def test_a_tick_whose_leader_died_on_it_is_sent_by_the_next(fleet: Fleet, moment: str) -> None:
    """With the same id, so that whoever looks at ids sees one tick."""
    fleet.schedule = EVERY_TEN
    first = fleet.machine()
    first.lead()
    first.tick_until_idle()
    fleet.wall.advance(10)
    place = (first.scheduler.app, "send_task") if moment == "before send" else (fleet.ledger, "confirm")
    with mock.patch.object(*place, side_effect=SystemExit), pytest.raises(SystemExit):
        first.scheduler.tick()
    sent_by_first = fleet.sent()
    claimed = fleet.ledger._claims["ten"]
    second = fleet.machine()
    first.resign()
    second.lead()
    second.tick_until_idle()
    (headers,) = fleet.sent()
    assert headers["id"] == claimed.task_id
    assert {each["id"] for each in sent_by_first} <= {claimed.task_id}
    second.tick_until_idle()
    assert fleet.sent() == []


def test_a_deposed_leader_claims_and_sends_nothing(fleet: Fleet) -> None:
    """Even when it was held up between its last look at the clock and the claim."""
    fleet.schedule = EVERY_TEN
    old, new = fleet.machine(), fleet.machine()
    old.lead()
    old.tick_until_idle()
    term = old.campaign.candidates["default"].term
    old.resign()
    new.lead()
    new.tick_until_idle()
    fleet.wall.advance(10)
    with mock.patch.object(type(old.campaign.candidates["default"]), "term", term):
        old.scheduler.tick()
    assert fleet.sent() == []
    new.tick_until_idle()
    assert dues(fleet.sent()) == [10]


def test_a_tick_that_is_claimed_already_is_not_sent(fleet: Fleet) -> None:
    """The ledger has the last word, and tells where to go on."""
    fleet.schedule = EVERY_TEN
    machine = fleet.machine()
    token = machine.lead()
    machine.tick_until_idle()
    fleet.wall.advance(10)
    (before,) = fleet.ledger.open(token).values()
    tick = Tick("default", "ten", fleet.wall.now)
    assert fleet.ledger.claim(token, [replace(before, tick=tick, claimed_at=fleet.wall.now, sent=True)]) == [True]
    machine.tick_until_idle()
    assert fleet.sent() == []
    fleet.wall.advance(10)
    machine.tick_until_idle()
    assert dues(fleet.sent()) == [20]


def test_missed_ticks_become_one(fleet: Fleet) -> None:
    """However long nobody led: one run now, then the usual rhythm."""
    fleet.schedule = {**EVERY_TEN, **EACH_MINUTE}
    first = fleet.machine()
    first.lead()
    first.tick_until_idle()
    first.resign()
    fleet.wall.advance(1000)
    second = fleet.machine()
    second.lead()
    second.tick_until_idle()
    assert sorted(each["task"] for each in fleet.sent()) == ["t.minute", "t.ten"]


def test_an_entry_with_a_new_schedule_starts_afresh(fleet: Fleet) -> None:
    """What was due by the old one says nothing about the new one."""
    fleet.schedule = {"e": {"task": "t.e", "schedule": 3600.0}}
    first = fleet.machine()
    first.lead()
    first.tick_until_idle()
    first.resign()
    fleet.schedule = {"e": {"task": "t.e", "schedule": 60.0}}
    fleet.wall.advance(100)
    second = fleet.machine()
    second.lead()
    second.tick_until_idle()
    assert fleet.sent() == []
    fleet.wall.advance(60)
    second.tick_until_idle()
    assert dues(fleet.sent()) == [160]


def test_a_schedule_that_changed_and_changed_back_is_not_sent_twice(fleet: Fleet) -> None:
    """The process that knew the first one led before the second."""
    entry = {"task": "t.e", "schedule": crontab(minute="*/10")}
    fleet.schedule = {"e": entry}
    new = fleet.machine()
    new.lead()
    new.tick_until_idle()
    fleet.wall.now = datetime(2026, 11, 23, 9, 10, tzinfo=timezone.utc)
    new.tick_until_idle()
    new.resign()
    fleet.schedule = {"e": {**entry, "schedule": crontab(minute="*/5")}}
    old = fleet.machine()
    old.lead()
    old.tick_until_idle()
    fleet.wall.now = datetime(2026, 11, 23, 9, 20, tzinfo=timezone.utc)
    old.tick_until_idle()
    assert len(fleet.sent()) == 2
    old.resign()
    fleet.wall.advance(1)
    new.lead()
    new.tick_until_idle()
    assert fleet.sent() == []


def test_what_is_known_of_a_removed_entry_is_dropped_after_a_week(fleet: Fleet) -> None:
    """A deployment that is rolled back goes on where it was; the ledger does not keep names for ever."""
    fleet.schedule = {**EVERY_TEN, "gone": {"task": "t.gone", "schedule": 10.0}}
    first = fleet.machine()
    first.lead()
    first.tick_until_idle()
    first.resign()
    fleet.schedule = EVERY_TEN
    for days, is_known in ((6, True), (2, False)):
        fleet.wall.advance(days * 24 * 3600)
        machine = fleet.machine()
        machine.lead()
        machine.tick_until_idle()
        machine.resign()
        assert ("gone" in fleet.ledger._claims) is is_known


def test_a_renamed_entry_starts_afresh(fleet: Fleet) -> None:
    """Nobody can tell that it is the same; it is due one period after it was first seen."""
    fleet.schedule = EVERY_TEN
    first = fleet.machine()
    first.lead()
    first.tick_until_idle()
    first.resign()
    fleet.wall.advance(60)
    fleet.schedule = {"renamed": EVERY_TEN["ten"]}
    second = fleet.machine()
    second.lead()
    second.tick_until_idle()
    assert fleet.sent() == []
    fleet.wall.advance(10)
    second.tick_until_idle()
    assert dues(fleet.sent()) == [70]


def test_an_entry_that_is_added_while_it_leads_takes_effect(fleet: Fleet) -> None:
    """By the scheduler's own methods, though nobody compares all entries on each tick."""
    fleet.schedule = EVERY_TEN
    leader = fleet.machine()
    leader.lead()
    leader.tick_until_idle()
    leader.scheduler.add(name="five", task="t.five", schedule=5.0)
    leader.tick_until_idle()
    fleet.wall.advance(5)
    leader.tick_until_idle()
    assert [each["task"] for each in fleet.sent()] == ["t.five"]
    del leader.scheduler.schedule["five"]
    fleet.wall.advance(5)
    leader.tick_until_idle()
    assert [each["task"] for each in fleet.sent()] == ["t.ten"]


class Dynamic(Scheduler):
    """A scheduler of somebody else, whose entries come from elsewhere at each look."""

    def setup_schedule(self) -> None:
        self.entries = {"ten": self.Entry(name="ten", app=self.app, **EVERY_TEN["ten"])}

    schedule = property(lambda self: dict(self.entries))

    def reserve(self, entry: Any) -> Any:
        self.entries[entry.name] = entry = next(entry)
        return entry


def test_a_schedule_that_changes_by_itself_is_followed(fleet: Fleet) -> None:
    """As Celery does: by comparing what the base returns."""
    leader = fleet.machine(Dynamic)
    leader.lead()
    leader.tick_until_idle()
    leader.scheduler.entries["five"] = leader.scheduler.Entry(
        name="five", app=leader.scheduler.app, task="t.five", schedule=5.0
    )
    leader.tick_until_idle()
    for expected in (["t.five"], ["t.five", "t.ten"]):
        fleet.wall.advance(5)
        leader.tick_until_idle()
        assert sorted(each["task"] for each in fleet.sent()) == expected


def test_a_base_that_writes_down_what_is_put_into_its_schedule_hears_of_runs(fleet: Fleet) -> None:
    """Celery puts the advanced entry there, which is how a base may keep last runs."""
    written: list[int] = []

    class Kept(dict):  # type: ignore[type-arg]  # whatever Celery puts there
        def __setitem__(self, name: str, made: Any) -> None:
            written.append(made.total_run_count)
            super().__setitem__(name, made)

        def __copy__(self) -> Any:
            return dict(self)

    class Base(Scheduler):  # type: ignore[misc]  # Celery has no types
        kept = Kept()
        schedule = property(lambda self: self.kept)

    fleet.schedule = EVERY_TEN
    leader = fleet.machine(Base)
    leader.lead()
    leader.tick_until_idle()
    fleet.wall.advance(10)
    leader.tick_until_idle()
    assert written == [0, 1]


def test_hundreds_that_are_due_together_are_sent_once_each(fleet: Fleet) -> None:
    """In batches, in few calls of the ledger, and an hour later again."""
    fleet.schedule = {f"e{number}": {"task": "t.many", "schedule": 3600.0} for number in range(240)}
    leader = fleet.machine()
    for _ in range(3):
        leader.lead()
        with (
            mock.patch("celery_leader.beat.mixin.BATCH", 100),
            mock.patch.object(MemoryLedger, "claim", autospec=True, side_effect=MemoryLedger.claim) as claim,
        ):
            leader.tick_until_idle()
        if messages := fleet.sent():
            assert claim.call_count == 3
            assert len({each["id"] for each in messages}) == 240
        fleet.wall.advance(3600)
    assert leader.scheduler.counts.sent == 480


def test_a_stop_that_comes_in_a_batch_leaves_the_rest_to_the_next(fleet: Fleet) -> None:
    """A worker that stops does not send hundreds of messages first."""
    fleet.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(50)}
    first, second = fleet.machine(), fleet.machine()
    first.lead()
    first.tick_until_idle()
    fleet.wall.advance(10)
    send_task = first.scheduler.app.send_task

    def send_and_stop(*args: Any, **kwargs: Any) -> Any:
        result = send_task(*args, **kwargs)
        if first.scheduler.counts.sent == 9:
            first.campaign.close_to_new_work()
        return result

    with (
        mock.patch.object(first.scheduler.app, "send_task", send_and_stop),
        mock.patch("celery_leader.beat.mixin.ENDING_TIME", 0),
    ):
        first.scheduler.tick()
    sent = fleet.sent()
    assert len(sent) == 10
    first.resign()
    second.lead()
    second.tick_until_idle()
    sent += fleet.sent()
    assert len(sent) == len({each["id"] for each in sent}) == 50


def test_a_stop_that_comes_after_a_claim_leaves_it_to_nobody(fleet: Fleet) -> None:
    """What was claimed is sent while there is trust: the next leader may come much later."""
    fleet.schedule = EVERY_TEN
    leader = fleet.machine()
    leader.lead()
    leader.tick_until_idle()
    fleet.wall.advance(10)
    claim = fleet.ledger.claim

    def claim_and_stop(*args: Any) -> Any:
        leader.campaign.close_to_new_work()
        return claim(*args)

    with mock.patch.object(fleet.ledger, "claim", claim_and_stop):
        leader.scheduler.tick()
    assert dues(fleet.sent()) == [10]
    fleet.wall.advance(10)
    with mock.patch("celery_leader.beat.mixin.STANDBY_WAIT", 0.01):
        leader.scheduler.tick()
    assert fleet.sent() == []


def test_entries_keep_their_options(fleet: Fleet) -> None:
    """Headers and options of the entry travel with every tick, and the entry stays as it was."""
    options = {"headers": {"mine": 1}, "priority": 3}
    fleet.schedule = {"ten": {"task": "t.ten", "schedule": 10.0, "options": options}}
    leader = fleet.machine()
    leader.lead()
    leader.tick_until_idle()
    for _ in range(2):
        fleet.wall.advance(10)
        leader.tick_until_idle()
    messages = fleet.sent()
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
    assert ("start no beat of its own" in caplog.text) is workers_have_beats


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
    assert not state.takes_part()


@pytest.mark.parametrize("base", [Scheduler, "celery.beat:Scheduler", "celery.beat.Scheduler", "leader"])
def test_a_scheduler_is_made_a_leaders_once(base: Any) -> None:
    """Whether it is named by class, by path or by a short name; a leader's is not made another one."""
    made = leader_scheduler(base)
    assert issubclass(made, Scheduler)
    assert made is leader_scheduler(base) is leader_scheduler(made) is LeaderScheduler
