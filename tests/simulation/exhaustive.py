"""Every short story of two candidates: all interleavings of calls, replies, losses, crashes, releases and waits.

A story is a sequence of moves. After each move the rules are checked, and the state is compared with those that were
reached before, by what still matters (ages, ranks of tokens, who is within which call): the rest of two stories that
reach the same state is the same, so only one of them goes on. The search is breadth first: what it finds is
shortest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_leader.election.term import next_token
from celery_leader.exceptions import RecordDamaged, StoreUnavailable
from tests.simulation.fibers import DRAIN_POLL, Fiber, current
from tests.simulation.network import Outcome
from tests.simulation.node import Node, NodeClock
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from tests.simulation.store_model import Request

LEASE, DEADLINE, RETRY = 3.0, 2.0, 0.5
#: How long (seconds) a wait may be: a part of the deadline, or all of a lease.
WAITS = (1.0, LEASE / 0.8)
#: What may go wrong in one story.
MOST_FAULTS = 2

Move = tuple[str, str]  # which candidate, what
#: a takes the lease, and b has seen it.
A_LEADS: tuple[Move, ...] = (("a", "step"), ("a", "answer"), ("a", "answer"), ("b", "step"), ("b", "answer"))
#: A second later the store loses its data, with a's trust alive.
DATA_IS_LOST: tuple[Move, ...] = (*A_LEADS, ("wait", "1.0"), ("store", "loses its data"))
#: A gives the lease back, and b does not know it yet.
A_RESIGNED: tuple[Move, ...] = (*A_LEADS, ("a", "release"), ("a", "answer"))


@dataclass
class _Call:
    name: str
    operation: Callable[[], Any]
    is_write: bool
    request: Request | None


class _Desk:
    """In place of a network: each call lies here until a move decides on it."""

    def __init__(self) -> None:
        self.pending: dict[Node, _Call] = {}
        self.late: list[tuple[Node, _Call]] = []

    def call(self, name: str, operation: Callable[[], Any], *, is_write: bool) -> Any:
        node = current().node
        call = self.pending[node] = _Call(name, operation, is_write, node.world.last_request if is_write else None)
        try:
            how = current().park(DRAIN_POLL)
        finally:
            self.pending.pop(node, None)
        outcome = Outcome()
        if how in {"answer", "lose"}:
            outcome.take(call.operation)
        elif how == "delay":
            self.late.append((node, call))
        node.world.note(node, f"{name}: {how}", outcome)
        node.story.append((name, how, type(outcome.error)))
        if how != "answer":
            node.unknown_writes += outcome.applied and is_write
            raise (RecordDamaged if how == "fail" else StoreUnavailable)(how)
        if outcome.error:
            raise outcome.error
        return outcome.value


class _Candidate(Node):
    """A node whose elector does one thing at a time, when told."""

    def start(self) -> None:
        super().start()
        self.began, self.story = self.world.now, []

    def _live(self) -> None:
        while True:
            what = current().park(DRAIN_POLL)
            self.began, self.story = self.world.now, []
            self.elector.step() if what == "step" else self.elector.release()
            self.began, self.story = self.world.now, []

    @property
    def fiber(self) -> Fiber:
        assert self._elector_fiber is not None
        return self._elector_fiber


class Story:
    """Two candidates and a store, after some moves."""

    def __init__(self, rates: tuple[float, float]) -> None:
        self.world = world = World(0)
        self.desk = world.network = _Desk()  # type: ignore[assignment]
        self.faults = 0
        for name, rate in zip("ab", rates, strict=True):
            node = _node(world, name, rate)
            world.nodes.append(node)
            node.start()
        self._run()

    def moves(self) -> Iterator[Move]:
        """Yield what may happen next."""
        may_fail = self.faults < MOST_FAULTS
        for node in self.world.nodes:
            if not node.is_alive:
                yield node.name, "start"
                continue
            if call := self.desk.pending.get(node):
                yield node.name, "answer"
                if may_fail:
                    yield node.name, "fail"
                if may_fail and call.is_write:
                    yield node.name, "lose"
                    yield node.name, "delay"
            else:
                yield node.name, "step"
                if node.elector._term and may_fail:
                    yield node.name, "release"
            if may_fail:
                yield node.name, "crash"
        yield from (("late", str(place)) for place in range(len(self.desk.late)))
        yield from (("wait", str(seconds)) for seconds in WAITS)

    def play(self, move: Move) -> None:
        """Let *move* happen."""
        who, what = move
        world = self.world
        self.faults += what in {"fail", "lose", "delay", "release", "crash"}
        if who == "wait":
            world.run_until(world.now + float(what))
        elif who == "store":
            world.lose_data(what)
        elif who == "late":
            node, call = self.desk.late.pop(int(what))
            outcome = Outcome()
            outcome.take(call.operation)
            world.note(node, f"{call.name} arrives late", outcome)
        else:
            node = next(node for node in world.nodes if node.name == who)
            if what in {"start", "crash"}:
                getattr(node, what)()
            else:
                fiber, ticket = node.fiber, node.fiber._ticket
                world.after(0, lambda: fiber.wake(ticket, what))
        self._run()

    def _run(self) -> None:
        self.world.run_until(self.world.now)
        self.world.rules.check()

    def state(self) -> Any:
        """Return what the rest of the story depends on."""
        world, stored = self.world, self.world.store.stored
        electors = [node.elector for node in world.nodes]
        tokens = {elector._observed.highest_token for elector in electors}
        tokens |= {elector._term.fencing_token for elector in electors if elector._term}
        tokens |= {elector._observed.record.fencing_token for elector in electors if elector._observed.record}
        tokens |= {stored.record.fencing_token} if stored else set()
        tokens |= {wall := next_token(0, world.nodes[0].clock.utcnow())}  # what a newcomer would take
        rank = {token: place for place, token in enumerate(sorted(tokens))}
        nodes = [self._state_of(node, rank) for node in world.nodes]
        if len({node.clock.rate for node in world.nodes}) == 1:  # then it does not matter which is which
            nodes.sort(key=repr)
        age = min(round(world.now - world.store.changed_at, 6), LEASE) if stored else -1.0
        token = rank[stored.record.fencing_token] if stored else -1
        return *nodes, self.faults, rank[wall], token, bool(stored and stored.record.holder_identity), age

    def _state_of_late(self, node: Node) -> Any:
        """Return what requests of *node* are still on their way: in the order in which they were sent."""
        return tuple(
            (call.request.previous == self.world.store.stored, call.request.identity == node.identity)
            for sender, call in self.desk.late
            if sender is node
        )

    def _state_of(self, node: _Candidate, rank: dict[int, int]) -> Any:
        late = self._state_of_late(node)
        if not node.is_alive:
            return late
        elector, now = node.elector, node.clock.monotonic()
        trust, observed, call = elector._trust, elector._observed, self.desk.pending.get(node)
        seen = observed.record and (
            rank[observed.record.fencing_token],
            bool(observed.holder),
            observed.stored == self.world.store.stored,
            min(round(now - observed.since, 6), LEASE),
        )
        return (
            late,
            node.identity == self._holder(),
            observed.holder == node.identity,
            call and call.request and call.request.previous == self.world.store.stored,
            call and call.name,
            tuple(node.story),
            round(self.world.now - node.began, 6) if call else 0,
            trust and max(round(trust.until - now, 6), -1.0),
            trust and node.clock.real(trust.renewed_at) > self.world.lost_data_at,
            elector._term and rank[elector._term.fencing_token],
            elector._term and not trust and min(round(now - elector._sent_at, 6), DEADLINE),
            rank[observed.highest_token],
            seen,
        )

    def _holder(self) -> str:
        stored = self.world.store.stored
        return stored.record.holder_identity if stored else ""


def _node(world: World, name: str, rate: float) -> _Candidate:
    from celery_leader.election import ElectionConfig

    clock = NodeClock(world, rate, 1000.0)
    config = ElectionConfig("default", name, lease_duration=LEASE, renew_deadline=DEADLINE, retry_period=RETRY)
    return _Candidate(world, name, clock, config)


def tell(rates: tuple[float, float], moves: tuple[Move, ...]) -> Story:
    """Play *moves* from the beginning."""
    story = Story(rates)
    for move in moves:
        story.play(move)
    return story


def explore(rates: tuple[float, float], begin: tuple[Move, ...], steps: int, seen: Counter[str]) -> int:
    """Play every story that begins with *begin* and goes on for up to *steps* moves; return how many states there are.

    Raises:
        Violation: A rule was broken; its text tells the shortest story.
    """
    frontier = [begin]
    reached = set()
    for _ in range(steps):
        following = []
        for moves in frontier:
            story = tell(rates, moves)
            choices = list(story.moves())
            story.world.close()
            for move in choices:
                story = tell(rates, (*moves, move))
                state = story.state()
                if state not in reached:
                    reached.add(state)
                    following.append((*moves, move))
                    seen.update(story.world.witness.keys())
                story.world.close()
        frontier = following
    return len(reached)
