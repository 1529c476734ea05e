"""The beat where clocks change, and where machines look at different times."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from celery.schedules import crontab

from tests.beat.machines import EACH_MINUTE, EVERY_TEN, START, Machines, dues


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin"])
@pytest.mark.parametrize("plan", [crontab(), crontab(minute="*/5")])
def test_a_takeover_in_the_hour_that_comes_twice_floods_nobody(machines: Machines, zone: str, plan: crontab) -> None:
    """Celery names a time in the first of the two for ever."""
    fold = (
        datetime(2026, 11, 1, 6, tzinfo=timezone.utc)
        if "York" in zone
        else datetime(2026, 10, 25, 1, tzinfo=timezone.utc)
    )
    machines.schedule = {"e": {"task": "t.e", "schedule": plan}}
    machines.conf = {"timezone": zone}
    machines.wall.now = fold - timedelta(minutes=7)
    first, second = machines.add(), machines.add()
    first.lead()
    first.tick_until_idle()
    first.resign()
    machines.wall.now = fold + timedelta(seconds=10)
    for _ in range(30):
        second.lead()
        second.tick_until_idle()
        machines.wall.advance(30)
    seen = [each["leader_due_at"] for each in machines.sent()]
    assert len(seen) == len(set(seen))
    assert 1 <= len(seen) <= 16


@pytest.mark.parametrize(
    "fold", [datetime(2026, 10, 25, 1, tzinfo=timezone.utc), datetime(2026, 3, 29, 1, tzinfo=timezone.utc)]
)
def test_intervals_run_on_while_clocks_are_changed(machines: Machines, fold: datetime) -> None:
    """Celery before 5.7 counts them by the time on the wall, and would wait for an hour."""
    machines.schedule = EVERY_TEN
    machines.conf = {"timezone": "Europe/Berlin"}
    machines.wall.now = fold - timedelta(seconds=30)
    leader = machines.add()
    leader.lead()
    for _ in range(12):
        leader.tick_until_idle()
        machines.wall.advance(10)
    seen = [datetime.fromisoformat(each["leader_due_at"]) for each in machines.sent()]
    assert seen == [fold + timedelta(seconds=10 * number) for number in range(-2, 9)]


def test_a_takeover_after_midnight_makes_up_for_the_run_before(machines: Machines) -> None:
    """Celery before 5.7 compares days."""
    machines.schedule = {"e": {"task": "t.e", "schedule": crontab(minute="29,59")}}
    machines.wall.now = datetime(2026, 11, 23, 23, 29, tzinfo=timezone.utc)
    first, second = machines.add(), machines.add()
    first.lead()
    first.tick_until_idle()
    first.resign()
    machines.wall.now = datetime(2026, 11, 24, 0, 0, 5, tzinfo=timezone.utc)
    second.lead()
    second.tick_until_idle()
    assert [each["leader_due_at"] for each in machines.sent()] == ["2026-11-23T23:59:00+00:00"]


def test_crontabs_keep_the_apps_time_zone(machines: Machines) -> None:
    """The ledger holds UTC; nine o'clock stays nine o'clock where the app lives."""
    machines.schedule = {"nine": {"task": "t.nine", "schedule": crontab(minute="0", hour="9")}}
    machines.conf = {"timezone": "Asia/Kolkata"}
    first = machines.leader()
    first.resign()
    second = machines.add()
    second.lead()
    machines.wall.now = datetime(2026, 11, 24, 3, 29, 59, tzinfo=timezone.utc)
    second.tick_until_idle()
    assert machines.sent() == []
    machines.wall.advance(1)
    second.tick_until_idle()
    (headers,) = machines.sent()
    assert headers["leader_due_at"] == "2026-11-24T03:30:00+00:00"


def test_the_due_time_is_the_same_on_every_machine(machines: Machines) -> None:
    """It follows from the last run, not from when one looks."""
    machines.schedule = {**EVERY_TEN, **EACH_MINUTE}
    for late in (0.25, 1.75):
        machines.wall.now = START
        machine = machines.leader()
        machines.wall.now = START + timedelta(seconds=30 + late)
        machine.tick_until_idle()
        found = {each["task"]: due for each in machines.sent() for due in dues([each])}
        assert found == {"t.ten": 30.0, "t.minute": 30.0}
        machine.resign()
        machines.ledger.clear()
        machines.wall.now = datetime(2026, 11, 23, 9, 0, 30, tzinfo=timezone.utc)


def test_last_runs_in_the_future_are_told_of_and_left(machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
    """A clock was wrong, and no machine can tell which one."""
    machines.schedule = EVERY_TEN
    first, second = machines.add(), machines.add()
    first.lead()
    first.tick_until_idle()
    machines.wall.advance(86_400 * 365)
    first.tick_until_idle()
    assert len(machines.sent()) == 1
    first.resign()
    machines.wall.advance(-86_400 * 365)
    second.lead()
    second.tick_until_idle()
    machines.wall.advance(20)
    second.tick_until_idle()
    assert machines.sent() == []
    (told,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert told.startswith(
        "Entries ran last in the future, by this machine's clock: 'ten' at 2027-11-23 09:00:30+00:00"
    )
    second.resign()
    del machines.ledger._claims["ten"]  # what the how-to says
    third = machines.add()
    third.lead()
    third.tick_until_idle()
    machines.wall.advance(10)
    third.tick_until_idle()
    assert len(machines.sent()) == 1
