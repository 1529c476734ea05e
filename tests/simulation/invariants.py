"""What must hold in a world at every moment (DESIGN §3). Written without a look at how the elector does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_leader.election import Candidacy, ElectionRecord, StopReason, StoredRecord, Term

if TYPE_CHECKING:
    from celery_leader.election import Trust
    from tests.simulation.store_model import Request
    from tests.simulation.world import Node, World

#: Rounding of floats, in seconds.
EPSILON = 1e-6
#: A lease (seconds) that no node of a world asks for.
ABSURD = 3600.0


class Violation(AssertionError):
    """A rule was broken; the message holds the seed and the end of the story."""


class Rules:
    """Watches a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._greatest_token = 0
        self._greatest_begun = 0
        self._sent_before_loss: set[int] = set()  # tokens of creations that were on their way when data was lost
        self._holders: dict[int, str] = {}  # by token, for ever
        self._broken: Violation | None = None
        self._written_at: dict[tuple[str, int], float] = {}  # when a term was last written to the store

    @property
    def terms(self) -> int:
        """How many terms the store has seen."""
        return len(self._holders)

    @property
    def is_broken(self) -> bool:
        return self._broken is not None

    def require(self, holds: bool, rule: str, *details: Any) -> None:
        """Raise the first violation, here and at the next check: product code that catches all can't hide it."""
        if not holds:
            world = self._world
            text = f"seed {world.seed} at {world.now:.3f}: {rule.format(*details)}\n{world.story()}"
            self._broken = self._broken or Violation(text)
            raise self._broken

    # -- belief --------------------------------------------------------------------------------------------------

    def check_after(self, node: Node) -> None:
        """Look whether *node*, which alone has run since the last check, believes something new.

        Others' beliefs can only have ended meanwhile: two overlap from a moment on at which one is new.
        """
        if self._broken or node.trust is not node.checked:
            self.check()

    def check(self) -> None:
        """Look at what each node believes at this moment."""
        if self._broken:
            raise self._broken
        believers = []
        for node in self._world.nodes:
            if trust := node.trust:
                believers.append((node, trust))
            else:
                node.checked = None
        for node, trust in believers:
            self._check_belief(node, trust)
        if len(believers) > 1:
            self._check_overlap([node for node, trust in believers if self._is_current(node, trust)])

    def _check_overlap(self, current: list[Node]) -> None:
        """A store that lost its data keeps no second leader out while a first one's trust is left from before."""
        self.require(len(current) <= 1, f"two trust themselves: {[node.identity for node in current]}")
        self._world.witness["overlap after data loss"] += 1

    def _is_current(self, node: Node, trust: Trust) -> bool:
        return node.clock.real(trust.renewed_at) > self._world.lost_data_at

    def _check_belief(self, node: Node, trust: Trust) -> None:
        if node.checked is trust:
            return
        node.checked = trust
        term = trust.term
        self.require(term.identity == node.identity, "{} believes in {}", node.identity, term)
        self.require(node.published == trust, "{} published {} and trusts {}", node.identity, node.published, trust)
        length = trust.until - trust.renewed_at
        self.require(length <= node.config.renew_deadline + EPSILON, "trust of {:g} s is too long", length)
        started = node.clock.real(trust.renewed_at)
        written = self._written_at.get((term.identity, term.fencing_token), -1.0)
        rule = "{} counts its trust from {:.3f}, after its last write at {:.3f}"
        self.require(started <= written + EPSILON, rule, node.identity, started, written)

    # -- terms ---------------------------------------------------------------------------------------------------

    def has_begun(self, node: Node, term: Term) -> None:
        self.require(node.open_term is None, f"{node.identity} started {term} within {node.open_term}")
        self.require(node.elector.candidacy is not Candidacy.OBSERVE, f"{node.identity} observes, and leads")
        self._check_order(node, term.fencing_token)
        node.open_term = term

    def _check_order(self, node: Node, token: int) -> None:
        """No lower token leads after a higher one, unless an answer, or the write itself, is from before data loss."""
        if token <= self._greatest_begun:
            trust = node.trust
            is_old = token in self._sent_before_loss or trust is None or not self._is_current(node, trust)
            self.require(is_old, f"{node.identity} leads with {token} after {self._greatest_begun}")
            self._world.witness["lower token leads after data loss"] += 1
        self._greatest_begun = max(self._greatest_begun, token)

    def has_ended(self, node: Node, term: Term, reason: StopReason) -> None:
        self.require(node.open_term == term, f"{node.identity} stopped {term} ({reason}) within {node.open_term}")
        node.open_term = None

    def has_stopped(self, node: Node) -> None:
        self.require(node.open_term is None, f"{node.identity} stopped within {node.open_term}")
        self.require(not node.elector.is_leader(), f"{node.identity} was stopped and believes")

    # -- writes --------------------------------------------------------------------------------------------------

    def may_send(self, request: Request) -> None:
        record, node = request.record, request.node
        told = request.previous is not None or node.was_told_of_none
        self.require(told, "{} creates a record, and was not told that there is none", node.identity)
        if not record.holder_identity:
            self.require(node.published is None, f"{node.identity} gives back what it still trusts in")
            self.require(not node.is_busy() or node.overruns, f"{node.identity} gives back while guarded work runs")
            return
        self.require(record.holder_identity == node.identity, f"{node.identity} writes for {record.holder_identity}")
        self.require(node.elector.candidacy is not Candidacy.OBSERVE, f"{node.identity} observes, and writes")

    def was_refused(self, request: Request, before: StoredRecord | None) -> None:
        witness = self._world.witness
        if request.previous is None:
            witness["late creation refused"] += 1
        elif before is None:
            witness["write to a vanished record refused"] += 1
        elif not _is_same_term(request.record, before.record):
            is_renewal = _is_same_term(request.previous.record, request.record)
            witness["stale renewal refused" if is_renewal else "slower takeover refused"] += 1

    def was_written(
        self, request: Request, before: StoredRecord | None, after: StoredRecord, unchanged_since: float
    ) -> None:
        """Compare what the store held, and since when, with what it holds now."""
        record = after.record
        if not record.holder_identity:
            self._released(request, before)
        elif before is None:
            self._created(request)
        elif not _is_same_term(record, before.record):
            self._taken_over(request, before.record, unchanged_since)
        if record.holder_identity:
            self._written_at[record.holder_identity, record.fencing_token] = self._world.now
            holder = self._holders.setdefault(record.fencing_token, record.holder_identity)
            self.require(holder == record.holder_identity, f"token {record.fencing_token} has two holders")

    def _released(self, request: Request, before: StoredRecord | None) -> None:
        old = before.record if before else ElectionRecord()
        self.require(old.holder_identity == request.identity, f"{request.identity} gave back what {old} holds")
        self.require(old.fencing_token == request.record.fencing_token, f"a release changed the token of {old}")

    def _created(self, request: Request) -> None:
        record, node = request.record, request.node
        if self._holders.get(record.fencing_token) == record.holder_identity:
            self._world.witness["vanished record put back"] += 1
            return
        self._new_token(request)
        if node.identity == request.identity and node.seen and node.seen[0].record.holder_identity:
            stored, since = node.seen
            if since > request.sent_at:  # it knew of no lease when it sent this
                return
            waited = (self._world.now - since) * node.clock.rate
            lease = stored.record.lease_duration
            if lease > ABSURD:
                lease = node.config.lease_duration
                self._world.witness["absurd lease waited out no longer than its own"] += 1
            self.require(waited >= lease - EPSILON, f"{node.identity} took a vanished record for a vacant one")
            self._world.witness["vanished record waited out"] += 1

    def _taken_over(self, request: Request, old: ElectionRecord, unchanged_since: float) -> None:
        self._new_token(request)
        if not old.holder_identity:
            self._world.witness["takeover by release"] += 1
            return
        if request.sent_at < self._world.lost_data_at:  # it was right to send it, and what it names has come back
            self._world.witness["takeover in flight during data loss"] += 1
            return
        unchanged = (self._world.now - unchanged_since) * request.node.clock.rate
        self.require(
            unchanged >= old.lease_duration - EPSILON,
            f"{request.identity} took the lease of {old.holder_identity} after {unchanged:.3f} s",
        )
        self._world.witness["takeover by expiry"] += 1

    def _new_token(self, request: Request) -> None:
        token = request.record.fencing_token
        if request.sent_at < self._world.lost_data_at:  # it can't know of tokens that came, and went, in between
            self._world.witness["creation in flight during data loss"] += 1
            self._sent_before_loss.add(token)
        else:
            self.require(token > self._greatest_token, f"token {token} after {self._greatest_token}")
        self._greatest_token = max(self._greatest_token, token)


def _is_same_term(one: ElectionRecord, other: ElectionRecord) -> bool:
    return (one.holder_identity, one.fencing_token) == (other.holder_identity, other.fencing_token)
