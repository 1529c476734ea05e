"""A base scheduler as its leader sees it: Celery's own. Adapters override the methods of other schedulers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from celery.beat import Scheduler

from celery_leader.beat.claims import Claims
from celery_leader.beat.due_times import Entry, due_after, fingerprint, where_it_lives
from celery_leader.beat.outbox import TickCounts
from celery_leader.beat.runs import Run

#: Celery's ``event_t``, an entry on the heap: a time (seconds since the epoch), a priority, and the entry.
Event: TypeAlias = Any
Heap: TypeAlias = list[Event]
#: How long (seconds) a lease waits for the last write of a base: a database that hangs must not block the next leader.
FAREWELL_PATIENCE = 3.0


class Base(Scheduler if TYPE_CHECKING else object):  # type: ignore[misc]  # Celery has no types
    """The questions that a leader asks its base scheduler, besides Celery's methods."""

    #: How long (seconds) a leader waits that could not read its schedule, besides a standby's wait.
    read_again = 0.0
    _has_schedule = False

    def begin_term(self) -> None:
        """Get the base ready to send; here: have it read its schedule, once."""
        if not self._has_schedule:
            self.setup_schedule()
            self._has_schedule = True

    def step_back(self) -> None:
        """Give up everything that a standby must not keep. A standby calls this again and again."""

    def round_ended(self, delay: float) -> float:
        """Note that all due runs are sent; return how long (seconds) to wait instead of *delay*."""
        return delay

    def find_entry(self, name: str) -> Entry | None:
        """Return the entry *name* as it is now, None when there is none."""
        entry: Entry | None = self.schedule.get(name)
        return entry

    def still_exist(self, names: Collection[str]) -> Collection[str]:
        """Return which of *names*, which are not in the schedule at the moment, may come back."""
        return ()

    def due_time(self, entry: Entry, now: datetime) -> datetime | None:
        """Return when *entry* is due after its last run (UTC), perhaps after *now*; None if its schedule can't say."""
        return due_after(entry.schedule, entry.last_run_at, now)

    def set_last_run(self, entry: Entry, last_run_at: datetime, total_run_count: int) -> None:
        """Let *entry* have run at *last_run_at* for the last time."""
        entry.last_run_at = last_run_at
        entry.total_run_count = total_run_count

    def recall(self, claims: Claims, entry: Entry) -> bool:
        """Set *entry* to its last run in the ledger; return whether there is one, of the same schedule."""
        claim = claims.get(entry.name)
        if claim is None or claim.schedule != fingerprint(entry.schedule):
            return False
        self.set_last_run(entry, where_it_lives(entry.schedule, claim.claimed_at), claim.run_count)
        return True

    def advance(self, run: Run) -> None:
        """Let the entry of *run*, which is claimed and which the base sends by itself, have run."""
        entry = run.entry if run.claim.sent else self.reserve(run.entry)
        self.set_last_run(entry, run.last_run_at, run.claim.run_count)

    def apply_as_base(self, entry: Entry, producer: Any) -> None:
        """Have the base send a run of *entry* as its own ``tick`` does."""
        super().apply_entry(entry, producer=producer)

    @property
    def heap(self) -> Heap | None:
        """Celery's heap of entries; None for a base that has none, and until the next tick makes one."""
        heap: Heap | None = self._heap
        return heap

    @heap.setter
    def heap(self, heap: Heap | None) -> None:
        self._heap = heap

    def now(self) -> datetime:
        """Return the time by the app's clock, with a time zone."""
        now: datetime = self.app.now()
        return now if now.tzinfo else now.replace(tzinfo=self.app.timezone)

    def monotonic(self) -> float:
        """Return a reading (seconds) of the monotonic clock."""
        return time.monotonic()


class Farewell:
    """Knows whether a base has sent something since it wrote its last runs, and whether the lease waits for that.

    Asked by the election's thread, answered by the beat's: each only assigns.
    """

    def __init__(self, counts: TickCounts, *, has_to_write: bool, now: Callable[[], float]) -> None:
        """Begin with nothing to write.

        Args:
            counts: What the beat has sent.
            has_to_write: Whether the base writes anything at all.
            now: A monotonic clock, in seconds.
        """
        self._has_to_write = has_to_write
        self._now = now
        self._counts = counts
        self._written = 0
        self._asked_at: float | None = None

    def ask(self) -> bool:
        """Note that the lease is about to be released; return whether something has to be written first."""
        if not self._has_to_write or self._counts.sent == self._written:
            return False
        if self._asked_at is None:
            self._asked_at = self._now()
        return self.is_due()

    def is_due(self) -> bool:
        """Return whether the lease waits for the base to write."""
        return self._asked_at is not None and self._now() < self._asked_at + FAREWELL_PATIENCE

    def done(self) -> None:
        """Note that the base has written, or has tried to."""
        self._written = self._counts.sent
        self._asked_at = None
