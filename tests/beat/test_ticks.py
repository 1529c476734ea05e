"""Names of ticks: equal on every machine, different for everything that differs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from celery_leader.beat.ticks import due_at, fingerprint, task_id
from celery_leader.ledger import Tick

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=timezone.utc)


def entry(plan: Any, last_run_at: datetime = NOON, **conf: Any) -> ScheduleEntry:
    """Return an entry that ran at *last_run_at*."""
    app = Celery("proj", set_as_current=False)
    app.conf.update(conf)
    return ScheduleEntry(name="e", task="t", schedule=plan, last_run_at=last_run_at.astimezone(app.timezone), app=app)


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
    assert due_at(entry(plan), max(expected, NOON) + timedelta(seconds=late)) == expected


def test_due_is_in_utc_whatever_the_apps_timezone() -> None:
    """A machine elsewhere computes the same instant."""
    plan = crontab(minute="0", hour="9")
    seen = due_at(entry(plan, timezone="Asia/Kolkata"), NOON + timedelta(days=1))
    assert seen == datetime(2026, 11, 24, 3, 30, tzinfo=timezone.utc)
    assert seen.utcoffset() == timedelta(0)


def test_due_is_never_later_than_now() -> None:
    """A tick is claimed when it is due, or not at all."""
    assert due_at(entry(crontab()), NOON) <= NOON


def test_looking_leaves_the_schedule_as_it_was() -> None:
    """Its clock goes on."""
    plan = schedule(timedelta(seconds=10))
    due_at(entry(plan), NOON)
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
    assert len({fingerprint(entry(plan)) for plan in plans}) == len(plans)
    assert fingerprint(entry(Custom(1))) == fingerprint(entry(Custom(1)))
