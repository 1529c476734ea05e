"""Where one record lives: compare-and-swap, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from celery_leader.election.record import ElectionRecord


@dataclass(frozen=True)
class StoredRecord:
    """A record as the store holds it.

    Attributes:
        record: The record.
        version: The store's mark of this very write. It differs after every write, even after one of equal values.
            Candidates only compare it, by equality.
    """

    record: ElectionRecord
    version: Any


class Lock(Protocol):
    """The record of one election in a store.

    A lock decides nothing: it knows no time, no expiry and no holder. It stores a record if the store still holds
    what the caller saw. One thread makes all calls but :meth:`wait` and :meth:`interrupt`.

    **Bounded.** No call takes longer than half the renew deadline (:meth:`wait`: than its timeout), whatever the
    store does, so that a leader has room for a second try.

    **Atomic.** Of any number of concurrent :meth:`create` or :meth:`update` calls that saw the same state, exactly
    one succeeds.

    ``celery_leader.testing.LockContract`` is this contract as tests.
    """

    def get(self) -> StoredRecord:
        """Read the record.

        Raises:
            RecordNotFound: The store answered that it holds no record.
            RecordDamaged: The store holds something else, or an unreadable record. It stays as it is.
            StoreUnavailable: There was no answer. This is *not* "not found".
        """
        ...

    def create(self, record: ElectionRecord) -> StoredRecord:
        """Store the first record of the election.

        Raises:
            RecordConflict: The store holds a record, or something else, already. It stays as it is.
            StoreUnavailable: There was no answer; the record may or may not be stored.
        """
        ...

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """Replace exactly *previous* by *record*.

        Raises:
            RecordConflict: The store holds something else, or nothing. It stays as it is.
            StoreUnavailable: There was no answer; *previous* may or may not be replaced.
        """
        ...

    def wait(self, timeout: float) -> None:
        """Sleep for *timeout* seconds, or less when the store notifies of a change (or for no reason at all).

        Notifications are only hints: this raises nothing, and a lost notification only costs the sleep.
        """
        ...

    def interrupt(self) -> None:
        """End the :meth:`wait` that is under way, or the next one, at once. Any thread may call this."""
        ...

    def describe(self) -> str:
        """Return where the record lives, for logs: without passwords."""
        ...

    def close(self) -> None:
        """Close connections. May be called more than once; a later call of another method opens them again."""
        ...
