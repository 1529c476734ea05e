"""What a candidate saw of the record, and how long it must leave the record to its holder."""

from __future__ import annotations

from dataclasses import dataclass

from celery_leader.election.lock import StoredRecord

#: The longest lease (seconds) that somebody may have meant. A longer one is named, and does not outlive its record.
SANE_LEASE = 3600.0


@dataclass(frozen=True)
class Observation:
    """What the store held, and since when.

    Attributes:
        stored: The record.
        since: When this candidate first saw it so (monotonic seconds).
    """

    stored: StoredRecord
    since: float

    def lease_left(self, now: float, *, own_lease: float, is_gone: bool = False) -> float:
        """Return for how many seconds more the record must be left to its holder, at most 0 when it need not be.

        The record's own lease counts: candidates may be configured differently. Only a record that is gone, and asked
        for a lease that nobody can have meant, is left alone no longer than *own_lease*: deleting it is the cure.

        Args:
            now: Monotonic seconds.
            own_lease: The lease that this candidate asks for itself, in seconds.
            is_gone: The record was there and has vanished.
        """
        record = self.stored.record
        if not record.holder_identity:
            return 0.0
        lease = own_lease if is_gone and self.asks_too_much(own_lease) else record.lease_duration
        return lease - (now - self.since)

    def asks_too_much(self, own_lease: float) -> bool:
        """Return whether the record's lease is longer than anybody can have meant, compared with *own_lease*."""
        return self.stored.record.lease_duration > max(SANE_LEASE, own_lease)
