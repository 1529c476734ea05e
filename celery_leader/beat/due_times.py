"""When a periodic entry is due, and the name of its tick: the same on every machine."""

from __future__ import annotations

import hashlib
import re
import sys
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Any, Protocol

from celery import schedules

from celery_leader.ledger import Tick
from celery_leader.older_celery import zone_of_nowfun

if TYPE_CHECKING:
    from typing_extensions import Self

_NAMESPACE = uuid.UUID("6f2f4a0e-5d0b-5c8f-9f0a-0c1e5a7d9b3e")
_MAX_FINGERPRINT = 160
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class Entry(Protocol):
    """An entry of a schedule, as Celery has it.

    Attributes:
        name: Its name in the schedule.
        schedule: When it is due: anything with Celery's ``is_due``.
        last_run_at: When it ran last; None when it never did.
        total_run_count: How often it ran.
        options: What its messages are sent with.
    """

    name: str
    schedule: Any
    last_run_at: datetime | None
    total_run_count: int | None
    options: dict[str, Any]


def due_after(schedule: Any, last_run: datetime | None, now: datetime) -> datetime | None:
    """Return when *schedule* is due first after *last_run* (UTC); None when it never is, or can't say.

    Schedules tell how much time is left, by a clock of their own that goes on between two looks. With that clock
    stopped the answer depends on the last run alone. An entry that never ran is due now.
    """
    if last_run is None:
        return utc(now)
    if isinstance(schedule, schedules.crontab):
        return _crontab_after(schedule, utc(last_run))
    if is_interval(schedule):
        every: timedelta = schedule.run_every
        return utc(last_run) + every  # the same answer, in a fifth of the time
    with StoppedClocks(now) as clocks:
        clocks.stop(schedule)
        try:
            left = schedule.remaining_estimate(last_run)
        except (AttributeError, NotImplementedError):  # it has is_due() only, which is all that Celery asks for
            return None
    return None if left is None else utc(now) + left  # in UTC: local days may have 23 or 25 hours


def is_interval(schedule: Any) -> bool:
    """Return whether *schedule* is a plain interval, whose runs are a matter of arithmetic."""
    return type(schedule) is schedules.schedule and not schedule.relative


def _crontab_after(schedule: Any, last_run: datetime) -> datetime:
    """Return when a crontab is due after *last_run*, asked at that very moment.

    Asked later, some versions of Celery skip runs of the day before. In the hour that comes twice when clocks are set
    back, Celery names the first one for ever; an answer that is not later means the second.
    """
    zone = zone_of(schedule)
    local = last_run.astimezone(zone)
    with StoppedClocks(local) as clocks:
        clocks.stop(schedule)
        due: datetime = last_run + schedule.remaining_estimate(local)
    return due if due > last_run else utc(due.astimezone(zone).replace(fold=1))


def zone_of(schedule: Any) -> tzinfo | None:
    """Return the time zone in which *schedule* is meant; None when it does not say.

    Celery reads the hours of a crontab off the app's time, whatever its ``nowfun`` tells.
    """
    return zone_of_nowfun(schedule) or getattr(schedule, "tz", None)


def where_it_lives(schedule: Any, time: datetime) -> datetime:
    """Return *time* as *schedule* is to see it as a last run.

    Intervals see it in UTC: added to the time on the wall, they would skip or repeat an hour when clocks are changed.
    """
    zone = None if is_interval(schedule) else zone_of(schedule)
    return time.astimezone(zone) if zone else utc(time)


def task_id(app_name: str, tick: Tick) -> str:
    """Return the id of the message of *tick*, a UUID of version 5: the same for each sender and each sending."""
    microseconds = (tick.due_at - _EPOCH) // _MICROSECOND
    return _uuid5(f"{app_name}|{tick.entry}|{microseconds}")


def message_id(task_id: str, number: int) -> str:
    """Return the id of a run's message *number*, counted from 0: the first is named like the run itself."""
    return _uuid5(f"{task_id}|{number}") if number else task_id


def _uuid5(name: str) -> str:
    """Return the text of ``uuid.uuid5`` in our namespace, in half the time."""
    digest = bytearray(hashlib.sha1(_NAMESPACE.bytes + name.encode()).digest())  # noqa: S324  # what the UUID is made of
    digest[6], digest[8] = digest[6] & 0x0F | 0x50, digest[8] & 0x3F | 0x80
    text = digest[:16].hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


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


def share_schedule(entry: Entry, shared: dict[str, Any]) -> Entry:
    """Let *entry*, which is returned, share its schedule with all that have an equal one: a crontab takes kilobytes."""
    schedule = entry.schedule
    if type(schedule) in (schedules.schedule, schedules.crontab) and schedule.nowfun is None:
        entry.schedule = shared.setdefault(fingerprint(schedule), schedule)
    return entry


def utc(time: datetime) -> datetime:
    """Return *time* in UTC; a naive one is UTC."""
    return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)


class StoppedClocks:
    """Makes schedules take one moment for the present, until the block ends."""

    def __init__(self, now: datetime) -> None:
        """Stop clocks at *now*."""
        #: The moment.
        self.now = now
        self._tell = lambda: now
        self._stopped: list[tuple[Any, Any]] = []

    def stop(self, schedule: Any) -> None:
        """Stop the clock of *schedule*."""
        zone = zone_of(schedule)
        self._stopped.append((schedule, getattr(schedule, "nowfun", None)))
        schedule.nowfun = self._tell if zone is None or zone is self.now.tzinfo else self._in_zone(zone)

    def _in_zone(self, zone: tzinfo) -> Callable[[], datetime]:
        """Return a clock that shows the moment where *zone* is: a schedule may compare its date with another."""
        local = self.now.astimezone(zone)
        return lambda: local

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let all clocks go on; those of schedules that entries share were stopped more than once."""
        for schedule, before in reversed(self._stopped):
            schedule.nowfun = before
