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


def due_at(entry: Any, now: datetime) -> datetime:
    """Return when *entry* was due after its last run (UTC).

    Schedules tell how much time is left, by a clock of their own that goes on between two looks. With that clock
    stopped at *now* the answer depends on the last run alone.
    """
    schedule = entry.schedule
    with _frozen(schedule, now):
        due: datetime = now + schedule.remaining_estimate(entry.last_run_at)
    return min(due, now).astimezone(timezone.utc)


def task_id(app_name: str, tick: Tick) -> str:
    """Return the id of the message of *tick*: the same for whoever sends it, however often."""
    microseconds = (tick.due_at - _EPOCH) // timedelta(microseconds=1)
    return str(uuid.uuid5(_NAMESPACE, f"{app_name}|{tick.entry}|{microseconds}"))


def fingerprint(entry: Any) -> str:
    """Return a text that is equal for equal schedules, on every machine."""
    schedule = entry.schedule
    if type(schedule) is schedules.schedule:  # its own text is rounded to two digits
        text = f"every {schedule.run_every.total_seconds()} s{' relative' if schedule.relative else ''}"
    else:
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(schedule))
    return text[:_MAX_FINGERPRINT]


@contextmanager
def _frozen(schedule: Any, now: datetime) -> Iterator[None]:
    before = getattr(schedule, "nowfun", None)
    schedule.nowfun = lambda: now
    try:
        yield
    finally:
        schedule.nowfun = before
