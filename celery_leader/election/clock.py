"""The two clocks of an election: one to decide by, one to show."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Protocol


class Clock(Protocol):
    """What an elector needs to know of time."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back and that no administrator sets."""
        ...

    def utcnow(self) -> datetime:
        """Return the wall clock's time, aware and in UTC. It is shown, and floors fencing tokens."""
        ...


# CLOCK_BOOTTIME goes on while the machine is suspended, CLOCK_MONOTONIC stands still: after a night in a
# laptop's bag a leader by CLOCK_MONOTONIC would still trust itself. Only Linux has it.
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", None)


def boot_time_ns() -> int:
    """Return nanoseconds on the clock that all processes of this machine share and that suspend doesn't stop."""
    return time.monotonic_ns() if _CLOCK_ID is None else time.clock_gettime_ns(_CLOCK_ID)


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return seconds since the machine booted, time asleep included where the system can tell."""
        return boot_time_ns() / 1e9

    def utcnow(self) -> datetime:
        """Return the wall clock's time in UTC."""
        return datetime.now(timezone.utc)


class DistinctTimes:
    """Times to write into records, no two the same, even while the wall clock stands still.

    The time of a renewal is what tells it from the one before when a write without an answer is read back.
    """

    def __init__(self, clock: Clock) -> None:
        """Take the clock whose wall time to write."""
        self._clock = clock
        self._last: datetime | None = None
        self._repeats = 0

    def next(self) -> datetime:
        """Return the wall clock's time, a microsecond more for each time that it was the same."""
        now = self._clock.utcnow()
        self._repeats = self._repeats + 1 if now == self._last else 0
        self._last = now
        return now + self._repeats * timedelta.resolution
