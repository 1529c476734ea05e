"""What one candidate has seen of the record: how long it must leave it to its holder, and which token comes next."""

from __future__ import annotations

import logging
from datetime import datetime

from celery_leader.election.clock import Clock
from celery_leader.election.config import ElectionConfig
from celery_leader.election.limits import TOO_MANY, shown
from celery_leader.election.lock import StoredRecord
from celery_leader.election.record import ElectionRecord
from celery_leader.election.term import next_token
from celery_leader.exceptions import RecordDamaged

logger = logging.getLogger(__name__)

#: The longest lease (seconds) that somebody may have meant. A longer one is logged, and does not outlive its record.
SANE_LEASE = 3600.0


class Observation:
    """The record as one candidate last saw or wrote it, and its age by that candidate's clock.

    The elector's thread keeps it up to date. Any thread may ask for :attr:`record` and :attr:`holder`.

    Attributes:
        stored: What the store held, None before its first answer.
        since: When the candidate first saw it so (monotonic seconds).
        highest_token: The highest token that the candidate has seen or sent.
    """

    def __init__(self, config: ElectionConfig, clock: Clock, place: str) -> None:
        """Begin with no record.

        Args:
            config: Names the election, and has the lease that the candidate asks for itself.
            clock: Measures the record's age.
            place: Where the record lives, for messages.
        """
        self.stored: StoredRecord | None = None
        self.since = 0.0
        self.highest_token = 0
        self._config = config
        self._clock = clock
        self._place = place

    @property
    def record(self) -> ElectionRecord | None:
        """The record, None before the first answer of the store."""
        stored = self.stored
        return stored.record if stored else None

    @property
    def holder(self) -> str:
        """The holder that the record names; empty when it names none, and before the first answer of the store."""
        record = self.record
        return record.holder_identity if record else ""

    def note(self, stored: StoredRecord) -> None:
        """Remember what the store holds. A record that changed is of age 0, at a moment after the change."""
        self.highest_token = max(self.highest_token, stored.record.fencing_token)
        if stored != self.stored:
            known, self.stored, self.since = self.record, stored, self._clock.monotonic()
            if known is None or known.lease_duration != stored.record.lease_duration:
                self._warn_of_lease(stored.record)

    def age(self) -> float:
        """Return how long (seconds) the candidate has seen the record unchanged."""
        return self._clock.monotonic() - self.since

    def lease_left(self, *, is_gone: bool = False) -> float:
        """Return for how many seconds more the record must be left to its holder, at most 0 when it need not be.

        The record's own lease counts: candidates may be configured differently. There is one exception: after the
        deletion of a record with an absurd lease, which is its cure, the candidate's own lease counts.

        Args:
            is_gone: The record was there and has vanished.
        """
        record = self.record
        if record is None or not record.holder_identity:
            return 0.0
        lease = self._config.lease_duration if is_gone and self._asks_too_much(record) else record.lease_duration
        return lease - self.age()

    def next_token(self, now: datetime, *, is_gone: bool) -> int:
        """Return the token of the next term, greater than all before. A token without a successor ends with its record.

        Args:
            now: The wall clock's time.
            is_gone: There is no record.

        Raises:
            RecordDamaged: The record leaves no room for another token.
        """
        token = next_token(self.highest_token, now)
        if token >= TOO_MANY and is_gone:
            token = next_token(0, now)
        if token >= TOO_MANY:
            raise RecordDamaged(
                f"{self._place}: the token {self.highest_token} leaves no room for the next one. "
                "Delete the record; the election then goes on"
            )
        self.highest_token = token
        return token

    def _asks_too_much(self, record: ElectionRecord) -> bool:
        """Return whether nobody can have meant the lease of *record*."""
        return record.lease_duration > max(SANE_LEASE, self._config.lease_duration)

    def _warn_of_lease(self, record: ElectionRecord) -> None:
        if self._asks_too_much(record):
            logger.warning("Election %r: the record of %s asks for a lease of %.0f s. Nobody takes over before it has "
                           "been unchanged for so long. If that is not meant, delete the record: %s",
                           self._config.name, shown(record.holder_identity), record.lease_duration, self._place,
                           )  # fmt: skip
