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
        version: What the store needs to tell this very write from every other. Opaque: only compared, by
            equality. It differs after every write, even one that writes equal values.
    """

    record: ElectionRecord
    version: Any


class Lock(Protocol):
    """The record of one election in a store.

    A lock decides nothing: it knows no time, no expiry and no holder. It stores what it is given when the
    store still holds what the caller saw. All calls but :meth:`wait` and :meth:`interrupt` are made by one thread.

    **Bounded.** No call takes longer than half the renew deadline (:meth:`wait`: than its timeout), whatever the
    store does, so that a leader has room for a second try.

    **Atomic.** Of any number of concurrent :meth:`create` or :meth:`update` calls that saw the same, exactly one
    succeeds.

    ``celery_leader.testing.LockContract`` is this contract as tests.
    """

    def get(self) -> StoredRecord:
        """Read the record.

        Raises:
            RecordNotFound: The store answered that there is none.
            RecordDamaged: There is something else, or a record that can't be read. It is left as it is.
            StoreUnavailable: There was no answer. This is *not* "not found".
        """
        ...

    def create(self, record: ElectionRecord) -> StoredRecord:
        """Store the first record of the election.

        Raises:
            RecordConflict: There is one (or something else) already; it is left as it is.
            StoreUnavailable: There was no answer; it may or may not have been stored.
        """
        ...

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """Replace exactly *previous* by *record*.

        Raises:
            RecordConflict: The store holds something else, or nothing; it is left as it is.
            StoreUnavailable: There was no answer; it may or may not have been replaced.
        """
        ...

    def wait(self, timeout: float) -> None:
        """Sleep for *timeout* seconds, or less when the store tells of a change (or for no reason at all).

        A notification is only a hint: it raises nothing, and one that is lost only costs the sleep.
        """
        ...

    def interrupt(self) -> None:
        """End a :meth:`wait` that is under way, or the next one, at once. Callable from any thread."""
        ...

    def describe(self) -> str:
        """Return where the record lives, for logs: no passwords."""
        ...

    def close(self) -> None:
        """Give back connections. Callable more than once; a later call opens them again."""
        ...
