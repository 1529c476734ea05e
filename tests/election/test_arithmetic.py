"""What the documentation computes from the three durations (docs/explanation/election.md)."""

from __future__ import annotations

import math
import random

import pytest

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import ElectionConfig, LeaderElector, StoredRecord
from celery_leader.exceptions import StoreUnavailable
from celery_leader.testing import FakeClock

DEFAULTS, FAST, DISTANT = (15.0, 10.0, 2.0), (3.0, 2.0, 0.4), (60.0, 40.0, 8.0)
TIMINGS = pytest.mark.parametrize("timing", [DEFAULTS, FAST, DISTANT], ids=["defaults", "fast", "distant"])


class Outage(MemoryLock):
    """A store that is away for a while: calls end without an answer, at once or when their time is over."""

    def __init__(self, clock: FakeClock, begin: float, end: float, *, hangs_for: float) -> None:
        super().__init__()
        self._clock, self._begin, self._end, self._hangs_for = clock, begin, end, hangs_for

    def _swap(self, *args: object) -> StoredRecord:
        self._suffer()
        return super()._swap(*args)

    def get(self) -> StoredRecord:
        self._suffer()
        return super().get()

    def _suffer(self) -> None:
        if self._begin <= self._clock.monotonic() < self._end:
            self._clock.advance(self._hangs_for)
            raise StoreUnavailable("away")


def candidate(timing: tuple[float, float, float], lock: MemoryLock, clock: FakeClock, name: str = "a", seed: int = 0):
    lease, deadline, retry = timing
    config = ElectionConfig("default", name, lease, deadline, retry)
    return LeaderElector(config, lock, clock=clock, random_source=random.Random(seed))


def survives(timing: tuple[float, float, float], outage: float, *, hangs: bool) -> bool:
    """Return whether a leader leads on in its term, whenever in a retry period the store goes away for so long."""
    _, deadline, retry = timing
    for begin in (0.001, retry / 2, retry - 0.001):
        clock = FakeClock(start=0.0)
        hangs_for = deadline / 2 if hangs else 0.0
        leader = candidate(timing, Outage(clock, begin, begin + outage, hangs_for=hangs_for), clock)
        assert leader.try_acquire_or_renew()
        term = leader.term
        clock.advance(retry)
        while clock.monotonic() < begin + outage + deadline:
            clock.advance(leader.step())
        if leader.term != term:
            return False
    return True


@TIMINGS
def test_an_outage_shorter_than_deadline_minus_two_retries_costs_nothing(timing: tuple[float, float, float]) -> None:
    """While calls are refused at once; one as long as the deadline does."""
    _, deadline, retry = timing
    assert survives(timing, 0.99 * (deadline - 2 * retry), hangs=False)
    assert not survives(timing, deadline, hangs=False)


@TIMINGS
def test_an_outage_shorter_than_half_a_deadline_costs_nothing(timing: tuple[float, float, float]) -> None:
    """While calls hang until they are given up, as long as a retry period is less than a quarter of the deadline."""
    lease, deadline, retry = timing
    assert retry < deadline / 4
    assert survives(timing, 0.99 * deadline / 2, hangs=True)
    assert not survives((lease, deadline, 0.26 * deadline), 0.99 * deadline / 2, hangs=True)


@TIMINGS
def test_a_killed_leader_is_followed_between_lease_minus_retry_and_lease_plus_2_2_retries(
    timing: tuple[float, float, float],
) -> None:
    """Over many moments of its death, and many rhythms of its follower; both ends are come near to."""
    lease, _, retry = timing
    waits = []
    for seed in range(300):
        clock, lock, moment = FakeClock(start=0.0), MemoryLock(), random.Random(seed)
        leader, follower = candidate(timing, lock, clock), candidate(timing, lock, clock, "b", seed)
        death = lease + moment.choice([0.001, moment.uniform(0, retry), retry - 0.001])
        next_renewal, next_look = 0.0, moment.uniform(0, 2.2 * retry)
        while not follower.is_leader():
            clock.advance(min(next_renewal, next_look) - clock.monotonic())
            if next_renewal < next_look:
                next_renewal += leader.step()
                next_renewal = next_renewal if next_renewal < death else math.inf
            else:
                next_look += follower.step()
        waits.append(clock.monotonic() - death)
    assert lease - retry <= min(waits) < lease - 0.5 * retry
    assert lease + 1.5 * retry < max(waits) <= lease + 2.25 * retry + 1e-6


@TIMINGS
def test_nobody_leads_for_lease_minus_deadline(timing: tuple[float, float, float]) -> None:
    """From the end of a trust to a takeover: what began in its last moment has so long to end."""
    lease, deadline, _ = timing
    clock, lock = FakeClock(start=0.0), MemoryLock()
    leader, follower = candidate(timing, lock, clock), candidate(timing, lock, clock, "b")
    assert leader.try_acquire_or_renew()
    assert not follower.try_acquire_or_renew()
    clock.advance(deadline)
    assert not leader.is_leader()
    clock.advance(lease - deadline - 0.001)
    assert not follower.try_acquire_or_renew()
    clock.advance(0.002)
    assert follower.try_acquire_or_renew()
