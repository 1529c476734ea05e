"""Which candidate leads, and until when a process may believe that it does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from celery_leader.election.record import ElectionRecord


@dataclass(frozen=True)
class Term:
    """One candidate's uninterrupted leadership.

    Attributes:
        election: The election's name.
        identity: The leader.
        fencing_token: Strictly greater than that of every earlier term of the election, even when the store
            lost its data in between. Hand it to whatever the leader writes to, and let that refuse lower tokens.
    """

    election: str
    identity: str
    fencing_token: int

    def holds(self, record: ElectionRecord) -> bool:
        """Return whether *record* says that this term goes on."""
        return record.holder_identity == self.identity and record.fencing_token == self.fencing_token


@dataclass(frozen=True)
class Trust:
    """The local, time-bounded belief "I lead". Times are seconds of the elector's monotonic clock.

    Attributes:
        term: The term in which the process believes to lead.
        renewed_at: When the last successful attempt *started*.
        until: When the belief ends by itself.
    """

    term: Term
    renewed_at: float
    until: float


class StopReason(str, Enum):
    """Why a term ended."""

    RELEASED = "released"  #: the leader gave the lease back: stop, step-down
    EXPIRED = "expired"  #: no renewal came in time: the store, the process or the machine stood still
    LOST = "lost"  #: the record names somebody else, or another term

    def __str__(self) -> str:
        """Return the bare word, as it stands in logs and records."""
        return self.value


def next_token(previous: int, now: datetime) -> int:
    """Return the token of the term after *previous*.

    The wall clock's milliseconds are a floor, so that tokens go on growing when a store comes back empty and
    nobody remembers the previous one. A wall clock that is behind does no harm: ``previous + 1`` counts then.

    Args:
        previous: The greatest token seen so far; 0 for none.
        now: The wall clock's time.
    """
    return max(previous + 1, int(now.timestamp() * 1000))
