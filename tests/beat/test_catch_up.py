"""Missed runs: one, none or each is made up for, as the entry wants."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from celery_leader.beat.catch_up import CatchUp, plan
from celery_leader.exceptions import ConfigurationError
from tests.beat.machines import START, Machines

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=timezone.utc)
WINDOW, GRACE = 3600.0, 20.0
TEN_SECONDS = schedule(timedelta(seconds=10))
RELATIVE = schedule(timedelta(minutes=10), relative=True)
HALF_HOURS = crontab(minute="0,30")


@pytest.mark.parametrize(
    ("every", "late", "policy", "sent", "missed", "counted_from"),
    [
        # every        late    policy    run to send  let go  the next one counts from (seconds after the due time)
        (TEN_SECONDS, 0, "latest", 0, 0, None),
        (TEN_SECONDS, 9.9, "latest", 0, 0, None),
        (TEN_SECONDS, 35, "latest", 30, 3, None),
        (TEN_SECONDS, 35, "skip", 30, 3, None),
        (TEN_SECONDS, 9.9, "skip", 0, 0, None),
        (TEN_SECONDS, 35, "all", 0, 0, 0),
        (TEN_SECONDS, 3635, "all", 40, 4, 40),
        (HALF_HOURS, 0, "latest", 0, 0, None),
        (HALF_HOURS, 59, "latest", 0, 0, None),
        (HALF_HOURS, 4000, "latest", 3600, 2, None),
        (HALF_HOURS, 15, "skip", 0, 0, None),
        (HALF_HOURS, 1000, "skip", None, 1, 0),
        (HALF_HOURS, 4000, "skip", None, 3, 3600),
        (HALF_HOURS, 3610, "skip", 3600, 2, None),
        (HALF_HOURS, 4000, "all", 1800, 1, 1800),
        (HALF_HOURS, 3500, "all", 0, 0, 0),
        (RELATIVE, 0, "latest", 0, 0, None),
        (RELATIVE, 1300, "latest", 1200, 2, None),
        (RELATIVE, 700, "skip", None, 2, 600),
        (RELATIVE, 700, "all", 0, 0, 0),
    ],
)
def test_what_is_made_up_for(
    every: Any, late: float, policy: str, sent: float | None, missed: int, counted_from: float | None
) -> None:
    """From the due time and the lateness to the run that is sent."""
    made = plan(entry(every), NOON, NOON + timedelta(seconds=late), CatchUp(policy, WINDOW, GRACE))
    assert made.due_at == (None if sent is None else NOON + timedelta(seconds=sent))
    assert made.missed == missed
    assert made.last_run_at == (None if counted_from is None else NOON + timedelta(seconds=counted_from))


def test_no_crontab_is_made_up_for_past_celerys_own_deadline() -> None:
    """``beat_cron_starting_deadline`` narrows the window."""
    made = plan(
        entry(crontab(), beat_cron_starting_deadline=120),
        NOON,
        NOON + timedelta(seconds=630),
        CatchUp("all", WINDOW, GRACE),
    )
    assert (made.due_at, made.missed) == (NOON + timedelta(minutes=9), 9)


@pytest.mark.parametrize("place", [lambda wanted: wanted, lambda wanted: {"headers": wanted}])
def test_an_entry_may_want_otherwise(place: Any) -> None:
    """In its options, or in its headers where nothing else can be said."""
    common = CatchUp("latest", WINDOW, GRACE)
    assert common.for_entry({}) == common
    assert common.for_entry(place({"leader_catch_up": "all"})) == CatchUp("all", WINDOW, GRACE)
    assert common.for_entry(place({"leader_catch_up_window": 60})) == CatchUp("latest", 60.0, GRACE)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"leader_catch_up": "none"}, "leader_catch_up must be one of latest, skip, all, got 'none'"),
        (
            {"leader_catch_up_window": -1},
            "leader_catch_up_window must be a positive number of seconds, ten years at most, got -1",
        ),
    ],
)
def test_a_wish_that_can_not_be_met_is_refused(options: dict[str, Any], complaint: str) -> None:
    """With the value, and with what there is."""
    with pytest.raises(ConfigurationError, match=complaint):
        CatchUp("latest", WINDOW, GRACE).for_entry(options)


def dues(machines: Machines) -> list[float]:
    """Take what was sent; return when each was due, in seconds after the start."""
    return [(datetime.fromisoformat(each["leader_due_at"]) - START).total_seconds() for each in machines.sent()]


@pytest.mark.parametrize(
    ("policy", "expected", "missed", "then"),
    [
        ("latest", [100], 9, [119]),  # ten seconds after it was sent, as Celery counts
        ("skip", [], 10, [120]),
        ("all", list(range(10, 101, 10)), 0, [110, 120]),
    ],
)
def test_a_new_leader_makes_up_for_what_was_missed(
    machines: Machines, policy: str, expected: list[float], missed: int, then: list[float]
) -> None:
    """Ten runs were due while nobody led; the usual rhythm follows."""
    machines.conf = {"leader_beat_catch_up": policy}
    machines.schedule = {"ten": {"task": "t.ten", "schedule": 10.0}}
    first = machines.leader()
    first.resign()
    machines.wall.advance(109)
    second = machines.add()
    second.lead()
    second.scheduler._entries.planner._catch_up = CatchUp(policy, WINDOW, grace=5)
    second.tick_until_idle()
    assert dues(machines) == expected
    assert second.scheduler.counts.missed == missed
    machines.wall.advance(11)
    second.tick_until_idle()
    assert dues(machines) == then


def test_what_an_entry_wants_is_not_sent(machines: Machines) -> None:
    """Publishing would refuse an option that it does not know."""
    options = {"leader_catch_up": "all", "headers": {"leader_catch_up_window": 60, "mine": 1}}
    machines.schedule = {"ten": {"task": "t.ten", "schedule": 10.0, "options": options}}
    machine = machines.leader()
    machines.wall.advance(30)
    machine.tick_until_idle()
    messages = machines.sent()
    assert len(messages) == 3
    assert all(each["mine"] == 1 and "leader_catch_up_window" not in each for each in messages)


def test_a_wrong_wish_is_told_once_and_the_entry_runs(machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
    """As the settings say."""
    machines.schedule = {"ten": {"task": "t.ten", "schedule": 10.0, "options": {"leader_catch_up": "never"}}}
    machine = machines.leader()
    for _ in range(2):
        machines.wall.advance(10)
        machine.tick_until_idle()
    assert len(machines.sent()) == 2
    assert sum("got 'never'" in line for line in caplog.messages) == 1


def entry(every: Any, **conf: Any) -> ScheduleEntry:
    """Return an entry of a schedule, in an app with *conf*."""
    app = Celery("proj", set_as_current=False)
    app.conf.update(conf)
    return ScheduleEntry(name="e", task="t", schedule=every, app=app)
