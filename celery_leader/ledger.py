"""The claims of ticks, which a beat makes before it sends: one claim a tick, and none by a stale term."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Protocol, TypeVar

from celery_leader.election.limits import (
    EARLIEST,
    LATEST,
    LONGEST_NAME,
    TOO_MANY,
    is_count,
    is_name,
    is_time,
    shown_value,
)
from celery_leader.exceptions import LeadershipLost, RecordDamaged, RecordNotFound, UnstorableClaim

#: The headers of a tick's message: when it was due (ISO 8601, UTC), and the fencing token of the term that sent it.
DUE_HEADER, TOKEN_HEADER = "leader_due_at", "leader_token"

#: How many claims a store gets in one request: it does nothing else meanwhile, and databases limit their parameters.
BATCH = 500

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Tick:
    """One due run of one periodic entry.

    Attributes:
        election: The election whose leader sends it.
        entry: The entry's name in the schedule.
        due_at: When it was due (UTC, microseconds count).
    """

    election: str
    entry: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A tick that a leader made its own: the last state of its entry.

    Attributes:
        tick: The claimed tick.
        task_id: The id of the message: the same for every sender and every repetition of the tick, and of no other. It
            is empty when there is no message to send.
        run_count: The number of the entry's claimed ticks so far, this one included.
        claimed_at: From when the next run counts (UTC): usually the moment of the claim, by the leader's clock. It
            becomes the entry's ``last_run_at``.
        schedule: A fingerprint of the entry's schedule. A claim with another fingerprint than the entry's is void.
        sent: Whether the leader is done with the message: the broker has it, it can never be sent, or there is none.
    """

    tick: Tick
    task_id: str
    run_count: int
    claimed_at: datetime
    schedule: str = ""
    sent: bool = False


def require_names(claims: Iterable[Claim]) -> None:
    """Refuse names that no store can keep.

    Raises:
        UnstorableClaim: The name of an entry is too long, or has half of a surrogate pair.
    """
    for claim in claims:
        if not is_name(claim.tick.entry):
            raise UnstorableClaim(
                f"its name has more than {LONGEST_NAME} characters, or a character that UTF-8 does not have. "
                "Rename the entry"
            )


def require_sound(claim: Claim) -> None:
    """Refuse a stored claim that no leader can have written.

    Raises:
        ValueError: The message says what is wrong.
    """
    due_at, claimed_at = claim.tick.due_at, claim.claimed_at
    if not (is_time(due_at) and is_time(claimed_at)):
        times = f"due at {shown_value(due_at)}, claimed at {shown_value(claimed_at)}"
        raise ValueError(f"its times must lie between {EARLIEST:%Y} and {LATEST:%Y}: {times}")
    if due_at > claimed_at:
        raise ValueError(f"it is due at {due_at}, and was claimed before that, at {claimed_at}")
    if not is_count(claim.run_count):
        raise ValueError(f"its run count must be from 0 to {TOO_MANY - 1}, got {shown_value(claim.run_count)}")
    for name in (claim.tick.entry, claim.task_id, claim.schedule):
        if not is_name(name):
            raise ValueError(f"a text in it must have {LONGEST_NAME} characters at most, got {shown_value(name)}")
    if not isinstance(claim.sent, bool):
        raise ValueError(f"it must be sent or not, got {shown_value(claim.sent)}")


@dataclass(frozen=True)
class Refusals:
    """Refuses calls of one ledger, with the same words for every store.

    Attributes:
        election: The election's name.
        where: Where the ledger is, for logs.
        cure: How an operator removes the token that the store keeps.
    """

    election: str
    where: str
    cure: str = ""

    def check(self, token: int, opened: object, *, must_be_open: bool) -> None:
        """Refuse a call of the term *token*, or return.

        Args:
            token: The fencing token of the caller.
            opened: The token that the store keeps as the greatest that opened the ledger; None when it keeps none.
            must_be_open: Whether only the term that opened the ledger may make this call.

        Raises:
            RecordDamaged: *opened* is no token.
            LeadershipLost: A later term has opened the ledger.
            RecordNotFound: This term must have opened it, and the store does not know of that.
        """
        if opened is not None and not is_count(opened):
            raise RecordDamaged(
                f"{self.where}: the ledger is left as it is: its token is {shown_value(opened)}, and must be a whole "
                f"number below {TOO_MANY}. The cure: {self.cure}"
            )
        if is_count(opened) and token < opened:
            raise LeadershipLost(
                f"Election {self.election!r}: the ledger was opened by token {opened}; {token} is over", cure=self.cure
            )
        if must_be_open and opened != token:
            raise RecordNotFound(f"Election {self.election!r}: the ledger is not as token {token} opened it")


def batches(items: Iterable[Item], size: int = BATCH) -> Iterator[list[Item]]:
    """Yield *items* in lists of *size*, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class Ledger(Protocol):
    """The claims of one election: for each entry, the last one.

    Every call names its term by the fencing token. The ledger remembers the greatest token that ever opened it; a
    call with a lower token changes nothing. Calls are bounded like those of a :class:`~celery_leader.election.Lock`,
    and may come from any thread, one at a time. A batch goes to the store as a whole.
    ``celery_leader.testing.LedgerContract`` is this contract as tests.
    """

    def open(self, token: int) -> Mapping[str, Claim]:
        """Take the ledger over for the term *token* and return the last claim of each entry, by entry name.

        From now on no lower token changes anything. The ledger removes claims that are unreadable, or that no leader
        can have written (see :func:`require_sound`), and names them in the log. It reads many claims in parts, each
        of which takes no longer than a call may.

        Raises:
            LeadershipLost: A higher token has opened it already.
            StoreUnavailable: There was no answer.
        """
        ...

    def claim(self, token: int, claims: Sequence[Claim]) -> Sequence[bool]:
        """Store each of *claims* whose tick is later than the last claim of its entry.

        Returns:
            For each claim whether it was stored. False: that tick, or a later one, was claimed before.

        Raises:
            LeadershipLost: A higher token has opened the ledger; nothing was stored.
            RecordNotFound: The ledger is not as this term opened it: the store lost its data. :meth:`restore` it.
            UnstorableClaim: The store can't keep one or more of the claims; none was stored.
            StoreUnavailable: There was no answer; some or all claims may be stored.
        """
        ...

    def confirm(self, token: int, claims: Iterable[Claim]) -> None:
        """Mark each of *claims* as sent, if it is still the last of its entry.

        Raises:
            LeadershipLost: A higher token has opened the ledger; nothing was marked.
            RecordNotFound: The ledger is not as this term opened it: the store lost its data. :meth:`restore` it.
            StoreUnavailable: There was no answer.
        """
        ...

    def restore(self, token: int, claims: Iterable[Claim]) -> None:
        """Write *claims* back, with their ``sent``, to a ledger that lost its data, and open it for *token*.

        An entry with the same or a later tick in the ledger stays as it is.

        Raises:
            LeadershipLost: A higher token has opened the ledger; nothing was written.
            UnstorableClaim: The store can't keep one or more of the claims; none was written.
            StoreUnavailable: There was no answer.
        """
        ...

    def forget(self, token: int, entries: Iterable[str]) -> None:
        """Drop the claims of *entries*, whose schedules are gone or have changed.

        Raises:
            LeadershipLost: A higher token has opened the ledger; nothing was dropped.
            StoreUnavailable: There was no answer.
        """
        ...

    def close(self) -> None:
        """Close connections. May be called more than once; a later call of another method opens them again."""
        ...
