"""Names of ticks: equal on every machine, different for everything that differs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.beat import ScheduleEntry, Scheduler
from celery.schedules import crontab, schedule

from celery_leader.beat.due_times import due_after, fingerprint, task_id
from celery_leader.beat.scheduler import LeaderScheduler
from celery_leader.ledger import Tick

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=timezone.utc)


def due(plan: Any, now: datetime, last_run_at: datetime = NOON, **conf: Any) -> datetime:
    """Return when *plan* is due after *last_run_at*, for an app with *conf* that looks at *now*."""
    app = Celery("proj", set_as_current=False)
    app.conf.update(conf)
    made = ScheduleEntry(name="e", task="t", schedule=plan, last_run_at=last_run_at.astimezone(app.timezone), app=app)
    found = due_after(made.schedule, made.last_run_at, now.astimezone(app.timezone))
    assert found
    return found


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (schedule(timedelta(seconds=10)), NOON + timedelta(seconds=10)),
        (schedule(timedelta(hours=1), relative=True), NOON + timedelta(hours=1)),
        (crontab(), NOON + timedelta(minutes=1)),
        (crontab(minute="30", hour="*/2"), NOON + timedelta(minutes=30)),
    ],
)
@pytest.mark.parametrize("late", [0.0, 0.3, 59.9, 5000.0])
def test_due_follows_from_the_last_run(plan: Any, expected: datetime, late: float) -> None:
    """However late one looks."""
    assert due(plan, max(expected, NOON) + timedelta(seconds=late)) == expected


def test_due_is_in_utc_whatever_the_apps_timezone() -> None:
    """A machine elsewhere computes the same instant."""
    plan = crontab(minute="0", hour="9")
    seen = due(plan, NOON + timedelta(days=1), timezone="Asia/Kolkata")
    assert seen == datetime(2026, 11, 24, 3, 30, tzinfo=timezone.utc)
    assert seen.utcoffset() == timedelta(0)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
def test_due_does_not_depend_on_the_zone_of_the_last_run_or_of_the_clock(zone: str) -> None:
    """A crontab's hours are those of its own zone; Celery before 5.7 reads them off what it is given."""
    app = Celery("proj", set_as_current=False)
    app.conf.update(timezone="Asia/Kolkata")
    plan = crontab(minute="*/20", hour="9", app=app)
    last_run = datetime(2026, 11, 24, 3, 30, tzinfo=timezone.utc).astimezone(ZoneInfo(zone))
    now = datetime(2026, 11, 24, 3, 51, tzinfo=timezone.utc).astimezone(ZoneInfo(zone))
    assert due_after(plan, last_run, now) == datetime(2026, 11, 24, 3, 50, tzinfo=timezone.utc)


@pytest.mark.parametrize("every", [0.5, 10, 3600, 86_400 * 3, 0])
@pytest.mark.parametrize("since", [0.0, 0.25, 9.999999, 10.0, 10.000001, 5e6])
def test_an_interval_is_due_when_celery_says_so(every: float, since: float) -> None:
    """Our arithmetic is for speed; in UTC it changes nothing."""
    app = Celery("proj", set_as_current=False)
    app.conf.leader_backend = "memory://"
    app.now = lambda: NOON + timedelta(seconds=since)
    entry = ScheduleEntry(name="e", task="t", schedule=timedelta(seconds=every), last_run_at=NOON, app=app)
    ours = LeaderScheduler(app=app, lazy=True)
    assert ours.is_due(entry) == tuple(Scheduler(app=app, lazy=True).is_due(entry))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("plan", [crontab(minute="30", hour="9"), crontab(minute="0"), schedule(timedelta(hours=5))])
def test_due_is_the_same_before_and_after_the_clocks_change(zone: str, plan: Any) -> None:
    """Local days have 23 or 25 hours; whoever looks late, after the change, sees the same instant."""
    for year_day in (datetime(2026, 3, 1, 12, tzinfo=timezone.utc), datetime(2026, 10, 1, 12, tzinfo=timezone.utc)):
        for day in range(45):
            last_run = year_day + timedelta(days=day)
            at_once = due(plan, last_run + timedelta(seconds=1), last_run, timezone=zone)
            for late in (timedelta(hours=20), timedelta(days=40)):
                assert due(plan, last_run + late, last_run, timezone=zone) == at_once


def test_nine_oclock_stays_nine_oclock_when_the_clocks_change() -> None:
    """The night of March 29th has an hour less in Berlin."""
    plan = crontab(minute="0", hour="9")
    before, after = datetime(2026, 3, 28, 8, tzinfo=timezone.utc), datetime(2026, 3, 29, 7, tzinfo=timezone.utc)
    for now in (before + timedelta(hours=1), after, after + timedelta(days=2)):
        assert due(plan, now, before, timezone="Europe/Berlin") == after


def test_what_never_ran_is_due_now() -> None:
    """RedBeat keeps such entries."""
    assert due_after(schedule(timedelta(seconds=10)), None, NOON) == NOON


def test_looking_leaves_the_schedule_as_it_was() -> None:
    """Its clock goes on."""
    plan = schedule(timedelta(seconds=10))
    due(plan, NOON)
    assert plan.nowfun is None


def test_ids_tell_ticks_apart() -> None:
    """Another app, entry or microsecond is another message."""
    tick = Tick("default", "e", NOON)
    ids = {
        task_id("a", tick),
        task_id("b", tick),
        task_id("a", Tick("default", "f", NOON)),
        task_id("a", Tick("default", "e", NOON + timedelta(microseconds=1))),
    }
    assert len(ids) == 4
    assert task_id("a", Tick("other", "e", NOON)) in ids


def test_long_fingerprints_tell_schedules_apart() -> None:
    """One o'clock is not thirteen o'clock, however many minutes there are."""
    every_minute = list(range(60))
    assert fingerprint(crontab(minute=every_minute, hour="1")) != fingerprint(crontab(minute=every_minute, hour="13"))


def test_fingerprints_tell_schedules_apart() -> None:
    """To the millisecond, and without a machine's memory addresses."""

    class Custom(schedule):
        def __repr__(self) -> str:
            return f"<custom at {id(self):#x}>"

    plans = [
        schedule(timedelta(seconds=1.001)),
        schedule(timedelta(seconds=1.002)),
        schedule(timedelta(seconds=1.002), relative=True),
        crontab(minute="1"),
        crontab(minute="2"),
    ]
    assert len({fingerprint(plan) for plan in plans}) == len(plans)
    assert fingerprint(Custom(1)) == fingerprint(Custom(1))
