"""What becomes of messages that a broker, which is there, does not take."""

from __future__ import annotations

from celery_leader.backends.memory import MemoryLedger
from celery_leader.beat.claims import Claims
from celery_leader.beat.outbox import OFFERED_TOGETHER, REFUSED_AGAIN, REFUSED_AGAIN_AT_MOST, Outbox, Outcome
from celery_leader.ledger import Claim
from celery_leader.testing.samples import sample_claim


class Broker:
    """Refuses what it is told to, and notes what is offered, and when."""

    def __init__(self) -> None:
        """Take nothing."""
        self.now = 0.0
        self.takes: set[str] = set()
        self.offers: list[tuple[float, str]] = []
        self.outbox = Outbox(Claims(MemoryLedger(), 1), may_send=lambda: True, send=self._offered, now=lambda: self.now)

    def _offered(self, claim: Claim) -> Outcome:
        self.offers.append((self.now, claim.tick.entry))
        return Outcome.OUT if claim.tick.entry in self.takes else Outcome.REFUSED

    def deliver(self, *claims: Claim) -> None:
        """Claim these and offer them."""
        self.outbox.claim(claims)
        self.outbox.deliver(claims)

    def pass_time(self, seconds: int) -> None:
        """Offer again, four times a second."""
        for _ in range(4 * seconds):
            self.now += 0.25
            self.outbox.deliver_again()


def test_a_refused_message_is_offered_more_and_more_seldom() -> None:
    """It may be for ever: its exchange may never come."""
    broker = Broker()
    broker.deliver(sample_claim("refused"))
    broker.pass_time(200)
    waits = [later - sooner for (sooner, _), (later, _) in zip(broker.offers, broker.offers[1:], strict=False)]
    assert waits == [REFUSED_AGAIN, 10, 20, 40, REFUSED_AGAIN_AT_MOST, REFUSED_AGAIN_AT_MOST]
    broker.takes = {"refused"}
    broker.pass_time(60)
    assert broker.outbox.claims.unsent() == []
    broker.takes = set()
    broker.deliver(sample_claim("refused", second=1))
    begun = broker.now
    broker.pass_time(6)
    assert broker.offers[-1] == (begun + REFUSED_AGAIN, "refused")  # it begins anew


def test_thousands_of_refused_messages_leave_time_for_others() -> None:
    """Each offer is a round trip, for which all that is due waits; all have their turn all the same."""
    broker = Broker()
    count = 4 * OFFERED_TOGETHER
    broker.deliver(*(sample_claim(f"refused {number}") for number in range(count)))
    broker.offers.clear()
    broker.now = REFUSED_AGAIN
    for turn in range(1, 5):
        broker.outbox.deliver_again()
        assert len(broker.offers) == turn * OFFERED_TOGETHER
    assert len({entry for _, entry in broker.offers}) == count
    broker.outbox.deliver_again()
    assert len(broker.offers) == count
