"""From a claim to a message to a confirmation: the way of every tick that is ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from celery_leader.beat.claims import Claims
from celery_leader.ledger import Claim

#: How many messages are confirmed together. A successor sends at most so many again (with the same ids) when a leader
#: dies between sending and confirming.
CONFIRMED_TOGETHER = 100
#: After so many failures in a row the broker is at fault; fewer may be the messages' own.
FAILURES_OF_A_BROKER = 3
#: How long (seconds) a refused message waits before it is offered again: doubled each time, up to the second number. At
#: most so many are offered again together: others are due meanwhile.
REFUSED_AGAIN, REFUSED_AGAIN_AT_MOST = 5.0, 60.0
OFFERED_TOGETHER = 50


class Outcome(IntEnum):
    """The outcome of handing a run to the broker; the greater, the worse."""

    #: It is out of our hands: the broker has it, or it can never be sent.
    OUT = 0
    #: The broker is there, and does not take it now.
    REFUSED = 1
    #: The broker takes no messages now.
    AWAY = 2
    #: This process may send nothing any more. The next leader sends the run.
    ENDED = 3


@dataclass
class TickCounts:
    """How many ticks this process claimed, sent and missed since it began.

    Attributes:
        claimed: Made ours in the ledger, or kept to be written there.
        sent: Out of our hands: taken by the broker, or given up because they can never be sent.
        resent: Of these, claimed before: by an earlier leader, or while the broker was away.
        missed: Due while no leader could send them, and let go by the entry's catch-up policy.
    """

    claimed: int = 0
    sent: int = 0
    resent: int = 0
    missed: int = 0


class _PutOff(NamedTuple):
    until: float
    wait: float


class Outbox:
    """Claims ticks, sends the claimed ones, and confirms the sent ones, always in this order."""

    def __init__(
        self,
        claims: Claims,
        *,
        may_send: Callable[[], bool],
        send: Callable[[Claim], Outcome],
        counts: TickCounts | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send for the term that *claims* belongs to.

        Args:
            claims: The term's.
            may_send: Asked immediately before each run: whether the term is still trusted, and no stop requested.
            send: Hands the messages of a run to the broker; used for runs that were claimed before.
            counts: Where to count.
            now: A monotonic clock, in seconds.
        """
        self.claims = claims
        #: Whether the broker took nothing any more when something was last offered to it.
        self.is_stuck = False
        self._may_send = may_send
        self._send = send
        self._counts = counts or TickCounts()
        self._now = now
        self._put_off: dict[str, _PutOff] = {}  # entries whose message was refused
        self._unconfirmed: list[Claim] = []  # sent, and to be confirmed together
        self._away_in_a_row = 0

    def begin(self) -> None:
        """Begin a new round of sending: the broker may be back."""
        self.is_stuck = False
        self._away_in_a_row = 0

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Make ticks ours; return for each whether it is. See :meth:`Claims.claim`."""
        accepted = self.claims.claim(claims)
        self._counts.claimed += sum(accepted)
        return accepted

    def settle(self, claim: Claim, outcome: Outcome) -> None:
        """Note the outcome of handing the run of *claim*, which is ours, to the broker.

        A run that is out of our hands is confirmed with others, by :meth:`confirm_sent` at the latest. Any other stays
        claimed: for :meth:`deliver_again`, or for the next leader.
        """
        if outcome is Outcome.AWAY:
            self._away_in_a_row += 1
            self.is_stuck |= self._away_in_a_row == FAILURES_OF_A_BROKER
        elif outcome is Outcome.REFUSED:
            self._away_in_a_row = 0
            self._put_it_off(claim.tick.entry)
        elif outcome is Outcome.OUT:
            self._away_in_a_row = 0
            self._note_sent(claim)

    def deliver(self, claims: Iterable[Claim]) -> None:
        """Send the messages of *claims*, which are ours, and confirm them. A failing one holds up no other.

        A run that is not out of our hands stays claimed: for the next call, or the next leader.
        """
        try:
            for claim in claims:
                if not self._may_send() or self.is_stuck:
                    return
                self.settle(claim, self._send(claim))
        finally:
            self.confirm_sent()

    def deliver_again(self, *, newest_first: bool = False) -> None:
        """Send the claimed and perhaps unsent runs, of an earlier leader or of this one, with the same ids.

        While a run of an entry is not out of our hands, no newer one may be claimed: it would replace the claim.
        """
        before = self._counts.sent
        try:
            self.deliver(self._to_be_offered(self.claims.unsent(newest_first=newest_first)))
        finally:
            self._counts.resent += self._counts.sent - before

    def confirm_sent(self) -> None:
        """Confirm the sent runs that are not confirmed yet."""
        if self._unconfirmed:
            sent, self._unconfirmed = self._unconfirmed, []
            self.claims.confirm(sent)

    def _note_sent(self, claim: Claim) -> None:
        self._put_off.pop(claim.tick.entry, None)
        self._unconfirmed.append(claim)
        self._counts.sent += 1
        if len(self._unconfirmed) == CONFIRMED_TOGETHER:
            self.confirm_sent()

    def _to_be_offered(self, claims: Iterable[Claim]) -> Iterator[Claim]:
        now, again = self._now(), 0
        for claim in claims:
            if put_off := self._put_off.get(claim.tick.entry):
                if now < put_off.until or again == OFFERED_TOGETHER:
                    continue
                again += 1
            yield claim

    def _put_it_off(self, entry: str) -> None:
        before = self._put_off.get(entry)
        wait = min(2 * before.wait, REFUSED_AGAIN_AT_MOST) if before else REFUSED_AGAIN
        self._put_off[entry] = _PutOff(self._now() + wait, wait)
