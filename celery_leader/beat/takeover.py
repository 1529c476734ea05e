"""The takeover: from a term of the election to one in which the beat sends, with the claims of earlier leaders."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery_leader.beat.base import Base
from celery_leader.beat.leading import LeadingTerm
from celery_leader.beat.reports import Failures, TakeoverReports
from celery_leader.election import Term
from celery_leader.leadership.campaign import Candidate

logger = logging.getLogger(__name__)


class Takeover:
    """Makes a leading term of each term of the election: once, and again after a :meth:`drop`."""

    def __init__(self, scheduler: Base, candidate: Candidate, lead: Callable[[Term], LeadingTerm]) -> None:
        """Prepare.

        Args:
            scheduler: The scheduler.
            candidate: This process in the beat's election.
            lead: Makes the term in which the beat sends; raises what the ledger does.
        """
        #: The term that was taken over last, until it is dropped.
        self.taken: LeadingTerm | None = None
        self._scheduler = scheduler
        self._candidate = candidate
        self._lead = lead
        self._reads_at = 0.0
        self._reports = TakeoverReports(candidate.election, patience=candidate.elector.config.renew_deadline)
        self._unread = Failures(
            f"Election {candidate.election!r}: beat can't read its schedule, so periodic tasks are NOT sent"
        )

    def current(self) -> LeadingTerm | None:
        """Return the term that may send, None on a standby; take over if it is a new one."""
        term = self._candidate.term
        if term is None:
            return None
        if self.taken is None or self.taken.term != term:
            self.taken = None
            if self._scheduler.monotonic() >= self._reads_at:
                self._begin(term)
        return self.taken

    def drop(self, reason: Exception) -> None:
        """Send nothing until the ledger was opened again, by this term or a later one."""
        logger.warning("Election %r: beat stops sending: %s", self._candidate.election, reason)
        self.taken = None

    def wait(self, seconds: float) -> None:
        """Wait *seconds* at most for leadership."""
        if self._candidate.leading.is_set():
            # It leads without a ledger, or its trust has just ended: don't spin.
            self._candidate.not_leading.wait(seconds / 2)
        else:
            self._candidate.leading.wait(seconds)

    def _begin(self, term: Term) -> None:
        try:
            self.taken = self._lead(term)
        except Exception as error:  # noqa: BLE001  # a store may raise anything; it is asked again
            self._reports.failed(term.fencing_token, error, self._scheduler.monotonic())
            return
        self._scheduler.heap = None  # made anew by the next tick, with the last runs from the ledger
        try:
            self._scheduler.begin_term()
        except Exception as error:  # noqa: BLE001  # the schedule's store does not answer; it is asked again
            self._unread.failed(error, self._scheduler.monotonic())
            self._reads_at = self._scheduler.monotonic() + self._scheduler.read_again
            self.taken = None
            return
        logger.info("Election %r: beat sends from now on (token %d)", term.election, term.fencing_token)
