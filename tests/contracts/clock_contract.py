"""What holds of an election whatever the store's clock does."""

from __future__ import annotations

from functools import partial

from celery_leader.election import ElectionConfig, LeaderElector, Lock
from celery_leader.exceptions import RecordConflict
from celery_leader.testing.contests import raises
from celery_leader.testing.doubles import FakeClock
from celery_leader.testing.samples import sample_record

HOUR = 3600.0


class StoreClockContract:
    """What every :class:`~celery_leader.election.Lock` must do whose store has a clock: never decide by it."""

    def make_lock(self, election: str = "default") -> Lock:
        """Return a lock in a store whose clock :meth:`step_clock` steps; no record exists at the start of a test."""
        raise NotImplementedError

    def step_clock(self, seconds: float) -> None:
        """Set the store's clock *seconds* ahead of what it would be, or back; 0 sets it right again."""
        raise NotImplementedError

    def test_a_stepped_clock_ends_no_lease_and_prolongs_none(self) -> None:
        """A follower takes over when the lease is over by its own clock: not at once, and not an hour late."""
        clock = FakeClock()
        configs = (ElectionConfig("default", name) for name in "ab")
        leader, follower = (LeaderElector(config, self.make_lock(), clock=clock) for config in configs)
        assert leader.try_acquire_or_renew()
        tokens = []
        for seconds in (HOUR, -HOUR, HOUR, 0):
            assert not follower.try_acquire_or_renew()
            self.step_clock(seconds)
            assert not follower.try_acquire_or_renew(), "the lease was ended by a clock"
            assert leader.try_acquire_or_renew(), "the renewal was refused by a clock"
            assert not follower.try_acquire_or_renew()
            clock.advance(leader.config.lease_duration + 1)
            assert follower.try_acquire_or_renew(), "the lease was prolonged by a clock"
            assert not leader.try_acquire_or_renew()
            assert follower.term
            tokens.append(follower.term.fencing_token)
            leader, follower = follower, leader
        assert tokens == sorted(set(tokens))

    def test_a_stepped_clock_decides_no_conflict(self) -> None:
        """What was written last counts, whatever time it was."""
        lock = self.make_lock()
        old = lock.create(sample_record())
        for seconds in (HOUR, -HOUR, 0):
            self.step_clock(seconds)
            new = lock.update(sample_record(leader_transitions=4), old)
            raises(RecordConflict, partial(lock.update, sample_record(holder_identity="b"), old))
            assert self.make_lock().get() == new
            old = new
