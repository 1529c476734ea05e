"""The faults of beats: M16 of the research's list and its relatives."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery_leader.backends.reading import Reading
from celery_leader.beat import publisher, runs
from celery_leader.beat.base import Farewell
from celery_leader.beat.claims import Claims
from celery_leader.beat.gate import LeaderMixin
from celery_leader.beat.leading import LeadingTerm
from celery_leader.leadership.campaign import Candidate
from celery_leader.ledger import Refusals
from tests.simulation.mutants.registry import mutant

if TYPE_CHECKING:
    from celery_leader.election import Term


def _all_accepted(claims: Any) -> Any:
    return [True] * len(claims) if isinstance(claims, (list, tuple)) else True


@mutant()
def m16_send_without_claim() -> None:
    """Sends whatever is due, claimed by somebody or not."""
    Claims.claim = lambda self, claims: _all_accepted(claims)


@mutant(killer="tests/beat/test_scheduler.py")  # no world refuses a claim: what was claimed is known from the start
def m16a_claim_is_not_asked() -> None:
    """Claims, and sends whatever the ledger answered."""
    claim = Claims.claim

    def careless(self: Claims, claims: Any) -> Any:
        claim(self, claims)
        return _all_accepted(claims)

    Claims.claim = careless


@mutant()
def m16b_claim_after_send() -> None:
    """Claims a tick when it is sent."""
    claim, confirm = Claims.claim, Claims.confirm

    def confirmed(self: Claims, claims: Any) -> None:
        claim(self, claims)
        confirm(self, claims)

    Claims.claim = lambda self, claims: _all_accepted(claims)
    Claims.confirm = confirmed


@mutant()
def m16c_confirm_before_send() -> None:
    """Notes a tick as sent when it is claimed."""
    claim = Claims.claim

    def hasty(self: Claims, claims: Any) -> Any:
        accepted = claim(self, claims)
        self.confirm(claims)
        return accepted

    Claims.claim = hasty


@mutant()
def m16d_stale_terms_claim() -> None:
    """Opens the ledger without keeping earlier terms out."""

    def open_to_all(self: Refusals, token: int, opened: object, *, must_be_open: bool) -> None:
        pass

    Refusals.check = open_to_all


@mutant()
def m16e_unsent_is_forgotten() -> None:
    """Takes over what was claimed, and sends nothing of it."""
    init = Claims.__init__

    def forgetful(self: Claims, *args: Any) -> None:
        init(self, *args)
        for claim in self.unsent():
            self._note(replace(claim, sent=True))

    Claims.__init__ = forgetful


@mutant()
def m16f_every_term_starts_afresh() -> None:
    """Counts periods from the start of its own term."""
    Claims.get = lambda self, entry: None


@mutant()
def m16g_an_id_for_each_message() -> None:
    """Gives a tick another id each time that it is sent."""
    runs.task_id = lambda app_name, tick: str(uuid4())


@mutant()
def m16h_gate_by_flag() -> None:
    """Sends until somebody says that it leads no more."""

    def term(self: Candidate) -> Term | None:
        trust = self.elector._trust
        return trust.term if trust else None

    Candidate.term = property(term)
    LeadingTerm.may_send = lambda self: True


@mutant()
def m16i_claims_are_not_written_back() -> None:
    """Keeps to itself what it claimed while the ledger was silent."""

    def forget(self: Claims) -> None:
        self._behind = False

    Claims._restore = forget


@mutant(killer="tests/beat/test_trouble.py")  # takes a loss of data under two leaders, one of which stands still
def m16j_claims_are_written_back_blindly() -> None:
    """Does not look what another term claimed in a ledger that lost its data."""
    Claims._is_news = lambda self, claim: False


@mutant(killer="tests/beat/test_damaged_ledgers.py")  # every name in a world can be kept
def m16k_one_bad_name_fails_its_batch() -> None:
    """Gives a whole batch of claims up for one that the ledger can't keep."""
    Claims._by_halves = lambda self, store, claims: store(claims)


@mutant(killer="tests/beat/test_damaged_ledgers.py")  # worlds give each request its time
def m16l_refused_and_asked_again_at_once() -> None:
    """Claims what was refused again without a pause."""
    send_due = LeadingTerm._send_due

    def hasty(self: LeadingTerm, base_tick: Any) -> float:
        delay = send_due(self, base_tick)
        return 0 if self._host.heap is None else delay

    LeadingTerm._send_due = hasty


@mutant()
def m16m_damaged_claims_stay() -> None:
    """Reads whatever a ledger holds, so that no claim ever takes the place of one that is due in the year 9998."""
    Reading.take = lambda self, row, entry, decode, *values: self.claims.update({entry: decode(*values)})


@mutant(killer="tests/beat/test_messages_of_a_run.py")  # a world's schedulers send one message a run
def m16n_one_id_for_all_messages_of_a_run() -> None:
    """Names every message of a run like the run."""
    publisher.message_id = lambda task_id, number: task_id


@mutant(killer="tests/beat/test_messages_of_a_run.py")
def m16o_trust_is_looked_at_once_a_run() -> None:
    """Sends the rest of a run's messages whoever leads meanwhile."""
    apply_async = LeaderMixin.apply_async

    def careless(self: LeaderMixin, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        if (sending := self._publisher.sending) and sending.messages:
            publish = partial(super(LeaderMixin, self).apply_async, entry, advance=advance)
            return self._publisher.publish(sending, entry, producer, publish)
        return apply_async(self, entry, producer, advance, **kwargs)

    LeaderMixin.apply_async = careless


@mutant(killer="tests/beat/test_embedded.py")
def m16p_last_runs_are_written_too_late() -> None:
    """Gives the lease back before the base has written what it may only write while it leads."""
    Farewell.ask = lambda self: False
