"""What a candidate reports: to its observers, and in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from celery_leader.election.alarm import Alarm, in_words
from celery_leader.election.candidacy import Candidacy
from celery_leader.election.config import ElectionConfig
from celery_leader.election.limits import shown
from celery_leader.election.observers import Observer, Observers
from celery_leader.election.record import ElectionRecord
from celery_leader.election.term import StopReason, Term, Trust
from celery_leader.exceptions import RecordDamaged, StoreUnavailable

logger = logging.getLogger(__name__)

_WHY_NOT = {
    Candidacy.CONTEND: "other candidates changed the record at each of its attempts",
    Candidacy.HOLD: "it is stopping, or stands back after it released the lease",
    Candidacy.OBSERVE: "its consumer is not connected to the broker, its main loop stands still, "
    "or leader_eligible is False",
}


class Reports:
    """The reports of one candidate. It reports a change once, and a wrong state once a minute while it lasts.

    All times are seconds of the elector's monotonic clock.
    """

    def __init__(self, config: ElectionConfig, store: str, observers: Iterable[Observer], *, patience: float) -> None:
        """Begin with nothing to report.

        Args:
            config: Names the election, the candidate and its deployment.
            store: Where the record lives, without passwords.
            observers: The observers to notify.
            patience: How long (seconds) an ordinary takeover may leave an election without a leader.
        """
        self.observers = Observers(observers)
        self._election = config.name
        self._identity = config.identity
        self._deployment = config.deployment
        self._store = store
        self._leader = ""
        #: Why this candidate can't take part at the moment: the store's last error. Empty when it can.
        self.trouble = ""
        self._silent_store = Alarm(after=patience)
        self._no_leader = Alarm(after=patience)
        self._shared_record = Alarm()

    # -- terms -------------------------------------------------------------------------------------------------

    def started(self, term: Term, cause: str = "") -> None:
        """*term* began. A *cause* says why: it was no hand-over, and an operator should know."""
        level = logging.WARNING if cause else logging.INFO
        self._log(level, f"started leading: {cause}" if cause else "started leading", term)
        self.observers.tell("started", term)

    def stopped(self, term: Term, reason: StopReason, detail: str = "") -> None:
        """*term*, which had begun, ended for *reason*; *detail* explains it in plain words."""
        level = logging.INFO if reason is StopReason.RELEASED else logging.WARNING
        self._log(level, f"stopped leading ({reason}): {detail}" if detail else f"stopped leading ({reason})", term)
        self.observers.tell("stopped", term, reason)

    def why_expired(self, overdue: float) -> str:
        """Return why a trust ran out, *overdue* seconds ago."""
        why = "this process stood still or the store answered too late"
        if self.trouble:
            why = f"no renewal succeeded ({self.trouble})"
        return f"its trust ran out {in_words(overdue)} ago, because {why}"

    def leads(self, identity: str) -> None:
        """*identity* is the observed holder; empty when there is none."""
        if identity == self._leader:
            return
        self._leader = identity
        if identity != self._identity:
            logger.info("Election %r: the leader is now %s", self._election, shown(identity) or "nobody")
        self.observers.tell("new_leader", identity)

    # -- wrong states ------------------------------------------------------------------------------------------

    def failed(self, error: StoreUnavailable, trust: Trust | None, now: float) -> None:
        """The store did not answer at *now*. A leader reports each time how much of its *trust* is left."""
        complaint = f"{type(error).__name__}: {error}"
        lasted = self._silent_store.due(now)
        if trust:
            logger.warning("Election %r: renewal of token %d failed, %.1f s of trust are left: %s",
                           self._election, trust.term.fencing_token, trust.until - now, complaint)  # fmt: skip
        elif lasted is not None:
            cure = "" if isinstance(error, RecordDamaged) else " Start the store, or correct leader_backend."
            logger.error(
                "Election %r: %s has not been able to take part for %s: %s. While no candidate can, nobody leads: "
                "periodic tasks are NOT sent and guarded tasks wait.%s",
                self._election, self._identity, in_words(lasted), str(error).rstrip("."), cure,
            )  # fmt: skip
        elif complaint != self.trouble:
            level = logging.ERROR if isinstance(error, RecordDamaged) else logging.WARNING
            logger.log(level, "Election %r: %s can't take part for now, and keeps trying: %s",
                       self._election, self._identity, complaint)  # fmt: skip
        self.trouble = complaint

    def answered(self, record: ElectionRecord | None, candidacy: Candidacy, now: float, *, is_led: bool) -> None:
        """The store answered at *now*.

        Args:
            record: The record as this candidate last saw it.
            candidacy: How far this candidate could go.
            now: Monotonic seconds.
            is_led: Whether somebody leads, as far as this candidate can tell.
        """
        self.trouble = ""
        if (lasted := self._silent_store.over(now)) is not None:
            logger.warning("Election %r: %s answers again after %s", self._election, self._store, in_words(lasted))
        self.leads(record.holder_identity if record else "")
        self._shares_record(record, now)
        if is_led:
            self._led(now)
        else:
            self._leaderless(candidacy, now)

    def _led(self, now: float) -> None:
        if (lasted := self._no_leader.over(now)) is not None:
            logger.warning("Election %r: %s leads after nobody had led for %s",
                           self._election, shown(self._leader), in_words(lasted))  # fmt: skip

    def _leaderless(self, candidacy: Candidacy, now: float) -> None:
        if (lasted := self._no_leader.due(now)) is not None:
            logger.error(
                "Election %r: nobody has led for %s: periodic tasks are NOT sent and guarded tasks wait. "
                "%s can't lead, because %s.",
                self._election, in_words(lasted), self._identity, _WHY_NOT[candidacy],
            )  # fmt: skip

    def _shares_record(self, record: ElectionRecord | None, now: float) -> None:
        """Complain while another deployment holds the record."""
        theirs = record.deployment if record and record.holder_identity else ""
        if not self._deployment or theirs in {"", self._deployment}:
            self._shared_record.over(now)
        elif self._shared_record.due(now) is not None:
            logger.error(
                "Election %r: its record in %s is held by %s, which belongs to another deployment: %s. This one is %s. "
                "Two deployments under one key are led as one, and the schedule of one is NOT sent. Give each its own "
                "leader_key_prefix; if they are one deployment, give its workers the same leader_key_prefix.",
                self._election, self._store, shown(self._leader), shown(theirs), self._deployment,
            )  # fmt: skip

    def _log(self, level: int, what: str, term: Term) -> None:
        logger.log(level, "Election %r, token %d: %s %s", term.election, term.fencing_token, term.identity, what)
