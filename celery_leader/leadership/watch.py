"""Faults that no elector sees: a thread of their own looks for them once a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from celery_leader.election import Lock, StoredRecord
from celery_leader.exceptions import RecordNotFound, StoreUnavailable

logger = logging.getLogger(__name__)

#: Seconds between two rounds of checks; the first comes after :data:`FIRST_LOOK`.
PERIOD = 60.0
FIRST_LOOK = 5.0


class Watch:
    """Runs checks on a thread of its own until it is stopped. A check that raises is logged and harms no other."""

    def __init__(self, checks: Iterable[Callable[[float], None]], *, period: float = PERIOD) -> None:
        """Prepare; nothing runs before :meth:`start`.

        Args:
            checks: Each gets the time (monotonic seconds), and logs what it finds.
            period: Seconds between two rounds.
        """
        self._checks = list(checks)
        self._period = period
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin. Does nothing without checks."""
        if self._checks:
            threading.Thread(target=self._run, name="celery-leader-watch", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end after the check that runs now."""
        self._stopping.set()

    def _run(self) -> None:
        pause = min(FIRST_LOOK, self._period)
        while not self._stopping.wait(pause):
            for check in self._checks:
                try:
                    check(time.monotonic())
                except Exception:  # the other checks go on
                    logger.exception("A check for wrong states failed")
            pause = self._period


class LeaderFromOutside:
    """Finds out who leads an election, for a process that takes no part: a leader's record changes.

    It compares no clocks of two machines.
    """

    def __init__(self, lock: Lock) -> None:
        """Watch the record behind *lock*, which from now on only this object uses."""
        self._lock = lock
        self._seen: StoredRecord | None = None
        self._since = 0.0

    def look(self, now: float) -> str | None:
        """Return the leader's identity at *now* (monotonic seconds); empty when nobody leads.

        Returns:
            None while that is unknown: it takes two looks at a record, and a store that answers.
        """
        try:
            stored = self._lock.get()
        except RecordNotFound:
            return ""
        except StoreUnavailable as error:
            logger.debug("%s: the leader is unknown: %s", self._lock.describe(), error)
            return None
        before, self._seen = self._seen, stored
        if not stored.record.holder_identity:
            return ""
        if before is None:
            self._since = now
            return None
        if stored != before:
            self._since = now
            return stored.record.holder_identity
        return "" if now - self._since > stored.record.lease_duration else None
