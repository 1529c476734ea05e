"""The state of an election in one word, for people and programs: from its record, and the age of the record."""

from __future__ import annotations

from enum import Enum

from celery_leader.election.limits import LONGEST

#: A record that was not renewed for more than this part of its lease is late.
_LATE_AFTER = 2 / 3


class ElectionState(str, Enum):
    """The state of an election by its record. It is for display: no elector decides by it."""

    LEADING = "leading"  #: renewed within two thirds of the lease
    LATE = "late"  #: not renewed for more than that; the lease still runs
    EXPIRED = "expired"  #: not renewed for a whole lease: the holder is gone, and nobody has taken over yet
    VACANT = "vacant"  #: nobody holds the lease

    @property
    def is_led(self) -> bool:
        """Whether somebody leads, as far as the record tells."""
        return self in {ElectionState.LEADING, ElectionState.LATE}


def state_of(holder: str, lease_duration: float, age: float | None) -> ElectionState:
    """Return the state of an election.

    Args:
        holder: The identity in its record; empty for nobody.
        lease_duration: The lease in its record, in seconds. A lease that no elector writes counts as expired.
        age: How long ago (seconds) the record was renewed, by one clock; None when it never was. It is negative after
            that clock was set back.
    """
    if not holder:
        return ElectionState.VACANT
    if age is None or not 0 <= lease_duration <= LONGEST or age > lease_duration:
        return ElectionState.EXPIRED
    return ElectionState.LEADING if age <= lease_duration * _LATE_AFTER else ElectionState.LATE
