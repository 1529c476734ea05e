"""When a periodic entry is due, and what its tick is called: the same on every machine."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from celery import schedules

from celery_leader.ledger import Tick

_NAMESPACE = uuid.UUID("6f2f4a0e-5d0b-5c8f-9f0a-0c1e5a7d9b3e")
_MAX_FINGERPRINT = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def due_after(schedule: Any, last_run: datetime | None, now: datetime) -> datetime | None:
    """Return when *schedule* is due for the first time after *last_run* (UTC), None when it never is.

    Schedules tell how much time is left, by a clock of their own that goes on between two looks. With that clock
    stopped at *now* the answer depends on the last run alone. What never ran is due now.
    """
    if last_run is None:
        return utc(now)
    with stopped_clock(schedule, now):
        left = schedule.remaining_estimate(last_run)
    return None if left is None else utc(now) + left  # in UTC: local days may have 23 or 25 hours


def task_id(app_name: str, tick: Tick) -> str:
    """Return the id of the message of *tick*: the same for whoever sends it, however often."""
    microseconds = (tick.due_at - _EPOCH) // _MICROSECOND
    return str(uuid.uuid5(_NAMESPACE, f"{app_name}|{tick.entry}|{microseconds}"))


def fingerprint(schedule: Any) -> str:
    """Return a text that is equal for equal schedules, on every machine."""
    if type(schedule) is schedules.schedule:  # its own text is rounded to two digits
        return f"every {schedule.run_every.total_seconds()} s{' relative' if schedule.relative else ''}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(schedule))[:_MAX_FINGERPRINT]


def utc(time: datetime) -> datetime:
    """Return *time* in UTC; a naive one is UTC."""
    return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)


@contextmanager
def stopped_clock(schedule: Any, now: datetime) -> Iterator[None]:
    """Let *schedule* take *now* for the time of day until the block ends."""
    before = getattr(schedule, "nowfun", None)
    schedule.nowfun = lambda: now
    try:
        yield
    finally:
        schedule.nowfun = before
