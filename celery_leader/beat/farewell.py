"""What a base has to write before the lease is given back: afterwards it may not, and the next leader reads it."""

from __future__ import annotations

from collections.abc import Callable

from celery_leader.beat.outbox import TickCounts

#: For so long (seconds) a lease is kept for it; a database that hangs must not keep others from leading.
PATIENCE = 3.0


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
        """Note that the lease is about to be given back; return whether something has to be written first."""
        if not self._has_to_write or self._counts.sent == self._written:
            return False
        if self._asked_at is None:
            self._asked_at = self._now()
        return self.is_due()

    def is_due(self) -> bool:
        """Return whether the lease waits for the base to write."""
        return self._asked_at is not None and self._now() < self._asked_at + PATIENCE

    def is_done(self) -> None:
        """Note that the base has written, or has tried to."""
        self._written = self._counts.sent
        self._asked_at = None
