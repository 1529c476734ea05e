"""What a candidate says: to its observers, and in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from celery_leader.election.observers import Observer, Observers
from celery_leader.election.term import StopReason, Term, Trust
from celery_leader.exceptions import LockUnavailable, RecordDamaged

logger = logging.getLogger(__name__)


class Reports:
    """One candidate's. What did not change is not said again."""

    def __init__(self, election: str, identity: str, observers: Iterable[Observer]) -> None:
        """Report of *identity* in *election*, to *observers* in order."""
        self.observers = Observers(observers)
        self._election = election
        self._identity = identity
        self._leader = ""
        self._complaint = ""

    def started(self, term: Term) -> None:
        """*term* began."""
        self._log(logging.INFO, "started leading", term)
        self.observers.tell("started", term)

    def stopped(self, term: Term, reason: StopReason) -> None:
        """*term*, which had begun, ended."""
        level = logging.INFO if reason is StopReason.RELEASED else logging.WARNING
        self._log(level, f"stopped leading: {reason}", term)
        self.observers.tell("stopped", term, reason)

    def leads(self, identity: str) -> None:
        """*identity* is the observed holder, empty when nobody is."""
        if identity == self._leader:
            return
        self._leader = identity
        if identity != self._identity:
            logger.info("Election %r: the leader is now %s", self._election, identity or "nobody")
        self.observers.tell("new_leader", identity)

    def failed(self, error: LockUnavailable, trust: Trust | None, now: float) -> None:
        """The store did not answer; a leader says each time how much of its *trust* is left at *now* (monotonic)."""
        complaint = f"{type(error).__name__}: {error}"
        if trust:
            logger.warning("Election %r: renewal of token %d failed, %.1f s of trust are left: %s",
                           self._election, trust.term.fencing_token, trust.until - now, complaint)  # fmt: skip
        elif complaint != self._complaint:
            level = logging.ERROR if isinstance(error, RecordDamaged) else logging.WARNING
            logger.log(level, "Election %r: %s can't take part for now, and keeps trying: %s",
                       self._election, self._identity, complaint)  # fmt: skip
        self._complaint = complaint

    def answered(self) -> None:
        """The store answered: the next failure is news."""
        self._complaint = ""

    def _log(self, level: int, what: str, term: Term) -> None:
        logger.log(level, "Election %r: %s %s (token %d)", term.election, term.identity, what, term.fencing_token)
