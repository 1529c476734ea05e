"""The two clocks of an election: one for decisions, one for display."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Protocol


class Clock(Protocol):
    """Gives an elector the time."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back and that no administrator sets."""
        ...

    def utcnow(self) -> datetime:
        """Return the wall clock's time, aware and in UTC: for display, and as a floor of fencing tokens."""
        ...


# CLOCK_BOOTTIME goes on while the machine is suspended, CLOCK_MONOTONIC stands still: after a night in a
# laptop's bag a leader by CLOCK_MONOTONIC would still trust itself. Only Linux has CLOCK_BOOTTIME.
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", None)


def boot_time_ns() -> int:
    """Return nanoseconds on the clock that all processes of this machine share and that suspend doesn't stop."""
    return time.monotonic_ns() if _CLOCK_ID is None else time.clock_gettime_ns(_CLOCK_ID)


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return seconds since the machine booted. On Linux they include the time asleep."""
        return boot_time_ns() / 1e9

    def utcnow(self) -> datetime:
        """Return the wall clock's time in UTC."""
        return datetime.now(timezone.utc)


class DistinctTimes:
    """Times for records, no two the same, even while the wall clock stands still.

    The read-back of a write without an answer tells two renewals apart by their times.
    """

    def __init__(self, clock: Clock) -> None:
        """Use the wall time of *clock*."""
        self._clock = clock
        self._last: datetime | None = None
        self._repeats = 0

    def next(self) -> datetime:
        """Return the wall clock's time, plus a microsecond for each time that it had not changed."""
        now = self._clock.utcnow()
        self._repeats = self._repeats + 1 if now == self._last else 0
        self._last = now
        return now + self._repeats * timedelta.resolution
