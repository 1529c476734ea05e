"""Schedules that change: by a deployment, by somebody's call, or by themselves."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from celery.beat import Scheduler
from celery.schedules import crontab

from tests.beat.machines import EVERY_TEN, Machines, dues


def test_an_entry_with_a_new_schedule_starts_afresh(machines: Machines) -> None:
    """What was due by the old one says nothing about the new one."""
    machines.schedule = {"e": {"task": "t.e", "schedule": 3600.0}}
    first = machines.leader()
    first.resign()
    machines.schedule = {"e": {"task": "t.e", "schedule": 60.0}}
    machines.wall.advance(100)
    second = machines.add()
    second.lead()
    second.tick_until_idle()
    assert machines.sent() == []
    machines.wall.advance(60)
    second.tick_until_idle()
    assert dues(machines.sent()) == [160]


def test_a_schedule_that_changed_and_changed_back_is_not_sent_twice(machines: Machines) -> None:
    """The process that knew the first one led before the second."""
    entry = {"task": "t.e", "schedule": crontab(minute="*/10")}
    machines.schedule = {"e": entry}
    new = machines.leader()
    machines.wall.now = datetime(2026, 11, 23, 9, 10, tzinfo=timezone.utc)
    new.tick_until_idle()
    new.resign()
    machines.schedule = {"e": {**entry, "schedule": crontab(minute="*/5")}}
    old = machines.add()
    old.lead()
    old.tick_until_idle()
    machines.wall.now = datetime(2026, 11, 23, 9, 20, tzinfo=timezone.utc)
    old.tick_until_idle()
    assert len(machines.sent()) == 2
    old.resign()
    machines.wall.advance(1)
    new.lead()
    new.tick_until_idle()
    assert machines.sent() == []


def test_what_is_known_of_a_removed_entry_is_dropped_after_a_week(machines: Machines) -> None:
    """A deployment that is rolled back goes on where it was; the ledger does not keep names for ever."""
    machines.schedule = {**EVERY_TEN, "gone": {"task": "t.gone", "schedule": 10.0}}
    first = machines.leader()
    first.resign()
    machines.schedule = EVERY_TEN
    for days, is_known in ((6, True), (2, False)):
        machines.wall.advance(days * 24 * 3600)
        machine = machines.add()
        machine.lead()
        machine.tick_until_idle()
        machine.resign()
        assert ("gone" in machines.ledger._claims) is is_known


def test_a_renamed_entry_starts_afresh(machines: Machines) -> None:
    """Nobody can tell that it is the same; it is due one period after it was first seen."""
    machines.schedule = EVERY_TEN
    first = machines.leader()
    first.resign()
    machines.wall.advance(60)
    machines.schedule = {"renamed": EVERY_TEN["ten"]}
    second = machines.add()
    second.lead()
    second.tick_until_idle()
    assert machines.sent() == []
    machines.wall.advance(10)
    second.tick_until_idle()
    assert dues(machines.sent()) == [70]


def test_an_entry_that_is_added_while_it_leads_takes_effect(machines: Machines) -> None:
    """By the scheduler's own methods, though nobody compares all entries on each tick."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    leader.scheduler.add(name="five", task="t.five", schedule=5.0)
    leader.tick_until_idle()
    machines.wall.advance(5)
    leader.tick_until_idle()
    assert [each["task"] for each in machines.sent()] == ["t.five"]
    del leader.scheduler.schedule["five"]
    machines.wall.advance(5)
    leader.tick_until_idle()
    assert [each["task"] for each in machines.sent()] == ["t.ten"]


class Dynamic(Scheduler):
    """A scheduler of somebody else, whose entries come from elsewhere at each look."""

    def setup_schedule(self) -> None:
        self.entries = {"ten": self.Entry(name="ten", app=self.app, **EVERY_TEN["ten"])}

    schedule = property(lambda self: dict(self.entries))

    def reserve(self, entry: Any) -> Any:
        self.entries[entry.name] = entry = next(entry)
        return entry


def test_a_schedule_that_changes_by_itself_is_followed(machines: Machines) -> None:
    """As Celery does: by comparing what the base returns."""
    leader = machines.leader(Dynamic)
    leader.scheduler.entries["five"] = leader.scheduler.Entry(
        name="five", app=leader.scheduler.app, task="t.five", schedule=5.0
    )
    leader.tick_until_idle()
    for expected in (["t.five"], ["t.five", "t.ten"]):
        machines.wall.advance(5)
        leader.tick_until_idle()
        assert sorted(each["task"] for each in machines.sent()) == expected


def test_a_base_that_writes_down_what_is_put_into_its_schedule_hears_of_runs(machines: Machines) -> None:
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

    machines.schedule = EVERY_TEN
    leader = machines.leader(Base)
    machines.wall.advance(10)
    leader.tick_until_idle()
    assert written == [0, 1]
