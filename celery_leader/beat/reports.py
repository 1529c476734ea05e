"""Log lines about what keeps a beat from sending: the cause may come back each second, the line does not."""

from __future__ import annotations

import logging

from celery_leader.election.alarm import REPEATED_EACH, Alarm, in_words
from celery_leader.election.limits import shown_value
from celery_leader.exceptions import LeaderError, LeadershipLost

logger = logging.getLogger(__name__)


class TakeoverReports:
    """Failed takeovers of one beat: logged once when new, and once a minute while they last."""

    def __init__(self, election: str, *, patience: float) -> None:
        """Report of *election*.

        Args:
            election: Whose ledger the beat opens.
            patience: How long (seconds) a process may take to notice that its term is over.
        """
        self._election = election
        self._patience = patience
        self._alarm = Alarm(after=patience)
        self._token = 0
        self._told = ""

    def failed(self, token: int, error: Exception, now: float) -> None:
        """The ledger could not be opened at *now* (monotonic seconds) for the term *token*, though it is trusted."""
        if token != self._token:
            self._token, self._told, self._alarm = token, "", Alarm(after=self._patience)
        cause = str(error) if isinstance(error, LeaderError) else shown_value(error)
        lasted = self._alarm.due(now)
        if lasted is not None:
            logger.error("Election %r, token %d: beat has not been able to take over for %s: %s. Periodic tasks are "
                         "NOT sent.%s", self._election, token, in_words(lasted), cause, self._cure(error))  # fmt: skip
        elif cause != self._told:
            logger.warning("Election %r, token %d: beat can't take over yet: %s", self._election, token, cause)
        self._told = cause

    @staticmethod
    def _cure(error: Exception) -> str:
        """Return what helps when a ledger knows of a newer term for longer than an older one can last: it never was."""
        if not isinstance(error, LeadershipLost) or not error.cure:
            return ""
        return f" No such term leads: somebody wrote that token, or the record was deleted. The cure: {error.cure}"


class Failures:
    """Failures of one thing that a beat tries at each tick. Each is logged once a minute, with its traceback."""

    def __init__(self, what: str) -> None:
        """Report about *what*, the beginning of each line: it names the failure and its consequence."""
        self._what = what
        self._told = ""
        self._next = 0.0
        self._untold = 0

    def failed(self, error: BaseException, now: float) -> None:
        """It failed at *now* (monotonic seconds) with *error*."""
        cause = shown_value(error)
        if cause == self._told and now < self._next:
            self._untold += 1
            return
        before = f", and {self._untold} times before" if self._untold else ""
        logger.error("%s%s: %s", self._what, before, cause, exc_info=error)
        self._told, self._next, self._untold = cause, now + REPEATED_EACH, 0
