"""All that begins and ends with a term of the beat's leadership."""

from __future__ import annotations

from celery_leader.beat.claims import Claims
from celery_leader.beat.outbox import Outbox
from celery_leader.election import Term
from celery_leader.election.alarm import Alarm


class LeadingTerm:
    """What a beat has while it leads: made at the takeover, dropped at the loss, never carried into another term.

    Attributes:
        term: Whose it is.
        outbox: What sends and confirms the term's claims.
        broker_away: The broker's absence, as far as this term has seen it.
        probes_at: When (a reading of the monotonic clock) to ask again whether the ledger still has its data.
        ends_at: Until when (the same clock) a stopping process goes on sending; None while it does not stop.
    """

    def __init__(self, term: Term, outbox: Outbox) -> None:
        """Begin."""
        self.term = term
        self.outbox = outbox
        self.broker_away = Alarm()
        self.probes_at = 0.0
        self.ends_at: float | None = None

    @property
    def claims(self) -> Claims:
        """What the term has claimed."""
        return self.outbox.claims
