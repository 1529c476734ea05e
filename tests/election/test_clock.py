"""Times: to decide by, to show, to number terms."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from celery_leader.election import SystemClock
from celery_leader.election.clock import DistinctTimes
from celery_leader.election.term import next_token
from celery_leader.testing import FakeClock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has it")
def test_time_asleep_counts() -> None:
    """A laptop that slept through its lease wakes as a follower (N10)."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= SystemClock().monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_wall_clock_is_aware() -> None:
    """Nobody has to guess a zone."""
    assert SystemClock().utcnow().tzinfo == timezone.utc


def test_times_differ_while_the_clock_stands_still() -> None:
    """Two renewals are never written with one time; a clock that runs is written as it is."""
    clock = FakeClock()
    times = DistinctTimes(clock)
    first = clock.utcnow()
    assert [times.next() for _ in range(3)] == [first + timedelta(microseconds=n) for n in range(3)]
    clock.advance(2)
    assert times.next() == first + timedelta(seconds=2)
    clock.step_wall(-3600)
    assert times.next() == first + timedelta(seconds=-3598)


NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
MILLISECONDS = int(NOW.timestamp() * 1000)


@pytest.mark.parametrize(
    ("previous", "token"),
    [(0, MILLISECONDS), (5, MILLISECONDS), (MILLISECONDS, MILLISECONDS + 1), (2**60, 2**60 + 1)],
)
def test_tokens_grow_whatever_the_wall_clock_says(previous: int, token: int) -> None:
    """By the clock where it is ahead, by one where it is behind."""
    assert next_token(previous, NOW) == token
