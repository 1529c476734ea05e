"""When a periodic entry is due, and what its tick is called: the same on every machine."""

from __future__ import annotations

import hashlib
import re
import sys
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Any

from celery import schedules

from celery_leader.ledger import Tick

if TYPE_CHECKING:
    from typing_extensions import Self

_NAMESPACE = uuid.UUID("6f2f4a0e-5d0b-5c8f-9f0a-0c1e5a7d9b3e")
_MAX_FINGERPRINT = 160
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def due_after(schedule: Any, last_run: datetime | None, now: datetime) -> datetime | None:
    """Return when *schedule* is due for the first time after *last_run* (UTC), None when it never is.

    Schedules tell how much time is left, by a clock of their own that goes on between two looks. With that clock
    stopped the answer depends on the last run alone. What never ran is due now.
    """
    if last_run is None:
        return utc(now)
    if isinstance(schedule, schedules.crontab):
        return _crontab_after(schedule, utc(last_run))
    if is_interval(schedule):
        every: timedelta = schedule.run_every
        return utc(last_run) + every  # what it would tell, in a fifth of the time
    with StoppedClocks(now) as clocks:
        clocks.stop(schedule)
        left = schedule.remaining_estimate(last_run)
    return None if left is None else utc(now) + left  # in UTC: local days may have 23 or 25 hours


def is_interval(schedule: Any) -> bool:
    """Return whether *schedule* is a plain interval, whose runs are a matter of arithmetic."""
    return type(schedule) is schedules.schedule and not schedule.relative


def _crontab_after(schedule: Any, last_run: datetime) -> datetime:
    """Return when a crontab is due after *last_run*, told at that very moment.

    Told later, Celery before 5.7 skips runs of the day before. In the hour that comes twice when clocks are set back
    it names the first one for ever; what is not later is meant of the second.
    """
    local = last_run.astimezone(schedule.tz)
    with StoppedClocks(local) as clocks:
        clocks.stop(schedule)
        due: datetime = last_run + schedule.remaining_estimate(local)
    return due if due > last_run else utc(due.astimezone(schedule.tz).replace(fold=1))


def task_id(app_name: str, tick: Tick) -> str:
    """Return the id of the message of *tick*, a UUID of version 5: the same for whoever sends it, however often."""
    microseconds = (tick.due_at - _EPOCH) // _MICROSECOND
    name = f"{app_name}|{tick.entry}|{microseconds}"
    return str(uuid.uuid5(_NAMESPACE, name))


def fingerprint(schedule: Any) -> str:
    """Return a text that is equal for equal schedules, on every machine."""
    if type(schedule) is schedules.schedule:  # its own text is rounded to two digits
        text = f"every {schedule.run_every.total_seconds()} s{' relative' if schedule.relative else ''}"
    else:
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(schedule))
    if len(text) > _MAX_FINGERPRINT:
        text = f"{text[:_MAX_FINGERPRINT]}… {hashlib.sha256(text.encode(errors='replace')).hexdigest()[:32]}"
    if not text.isprintable():  # no ledger has to keep NUL or half of a surrogate pair
        text = text.encode("unicode_escape").decode()
    return sys.intern(text)  # kept for each of thousands of entries, which share a few


def share_schedule(entry: Any, shared: dict[str, Any]) -> Any:
    """Let *entry*, which is returned, share its schedule with all that have an equal one: a crontab takes kilobytes."""
    schedule = entry.schedule
    if type(schedule) in (schedules.schedule, schedules.crontab) and schedule.nowfun is None:
        entry.schedule = shared.setdefault(fingerprint(schedule), schedule)
    return entry


def utc(time: datetime) -> datetime:
    """Return *time* in UTC; a naive one is UTC."""
    return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)


class StoppedClocks:
    """Lets schedules take one moment for the time of day, until the block ends."""

    def __init__(self, now: datetime) -> None:
        """Stop clocks at *now*."""
        #: The moment.
        self.now = now
        self._tell = lambda: now
        self._stopped: list[tuple[Any, Any]] = []

    def stop(self, schedule: Any) -> None:
        """Stop the clock of *schedule*."""
        self._stopped.append((schedule, getattr(schedule, "nowfun", None)))
        zone = getattr(schedule, "tz", None)
        schedule.nowfun = self._tell if zone is None or zone is self.now.tzinfo else self._in_zone(zone)

    def _in_zone(self, zone: tzinfo) -> Callable[[], datetime]:
        """Return a clock that shows the moment where *zone* is: Celery before 5.7 compares its date with another."""
        local = self.now.astimezone(zone)
        return lambda: local

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let all clocks go on; those of schedules that entries share were stopped more than once."""
        for schedule, before in reversed(self._stopped):
            schedule.nowfun = before
