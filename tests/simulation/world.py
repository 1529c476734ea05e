"""A world of candidates: real electors on virtual time, each in a greenlet of its own.

All that happens is an event on one heap, in an order that the seed decides. A node runs until it waits for the
store or sleeps; then the next event comes. After each the rules are checked (:mod:`tests.simulation.invariants`).
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import greenlet

from celery_leader.election import Candidacy, ElectionConfig, LeaderElector, StoredRecord, Term, Trust
from celery_leader.election.runner import MAX_WAKE_DELAY
from tests.simulation.invariants import Rules
from tests.simulation.network import Network
from tests.simulation.store_model import Request, SimulatedLock, StoreModel

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass
class NodeClock:
    """A node's two clocks. The monotonic one runs at its own rate; the wall clock is as wrong as it likes."""

    world: World
    rate: float
    offset: float
    skew: float = 0.0
    frozen: bool = False

    def monotonic(self) -> float:
        return self.offset + self.rate * self.world.now

    def utcnow(self) -> datetime:
        return EPOCH + timedelta(seconds=self.skew + (0 if self.frozen else self.world.now))

    def real(self, monotonic: float) -> float:
        """Return the world's time at which this clock showed *monotonic*."""
        return (monotonic - self.offset) / self.rate


class Node:
    """A machine with one candidate; a restart gives it a new elector and a new identity."""

    def __init__(self, world: World, name: str, clock: NodeClock, config: ElectionConfig) -> None:
        self.world = world
        self.name = self.identity = name
        self.clock = clock
        self.io_timeout = config.renew_deadline / 2
        self.config = config
        self.stall_chance = 0.0
        self.candidacy = Candidacy.CONTEND
        self.stop_requested = False
        self.cut_off_until = self.no_writes_until = self.paused_until = 0.0
        self._lives = itertools.count(1)
        self._tickets = itertools.count(1)
        self._ticket = 0
        self._greenlet: greenlet.greenlet | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a new life, unless this one goes on."""
        if self.is_alive:
            return
        self.identity = f"{self.name}/{next(self._lives)}"
        self.stop_requested = False
        self.candidacy = Candidacy.CONTEND
        self.unknown_writes = 0
        self.published: Trust | None = None
        self.checked: Trust | None = None  # by the rules, when it was new
        self.seen: tuple[StoredRecord, float] | None = None
        self.open_term: Term | None = None
        self.elector = LeaderElector(
            replace(self.config, identity=self.identity),
            SimulatedLock(self.world, self),
            clock=self.clock,
            publish=self._publish,
            random_source=self.world.random,
        )
        self.elector._observers = self  # type: ignore[assignment]  # told at once: a thread would not be deterministic
        self._greenlet = greenlet.greenlet(self._live)
        self._greenlet.switch()

    def crash(self) -> None:
        """Die at once, in the midst of whatever it does. What it has sent is on its way all the same."""
        if self._greenlet and self.is_alive:
            self.world.note(self, "crashes")
            self._ticket = 0
            current, self._greenlet = self._greenlet, None
            current.throw(greenlet.GreenletExit)

    @property
    def is_alive(self) -> bool:
        return self._greenlet is not None and not self._greenlet.dead

    @property
    def trust(self) -> Trust | None:
        """What this node believes at this moment."""
        return self.elector.trust if self.is_alive else None

    def is_leader(self) -> bool:
        return self.trust is not None

    def _live(self) -> None:
        """Do what ElectorThread does, on virtual time."""
        while not self.stop_requested:
            self.elector.candidacy = self.candidacy
            unknown_before = self.unknown_writes
            delay = self.elector.step()
            if self.unknown_writes > unknown_before and self.elector.is_leader():
                self.world.witness["unknown write recovered by read-back"] += 1
            if self.stop_requested:
                break
            if self.sleep(delay) == "hint" and not self.elector.is_leader():
                self.sleep(self.world.random.uniform(0, MAX_WAKE_DELAY))
        self.elector.release()
        self.world.rules.has_stopped(self)

    # -- waiting -------------------------------------------------------------------------------------------------

    def new_ticket(self) -> int:
        """Return what names the next wait: whoever wakes an earlier one comes too late."""
        return next(self._tickets)

    def park(self, ticket: int, timeout: float) -> str:
        """Wait until woken, *timeout* seconds of this node's clock at most; return why it ended."""
        self._ticket = ticket
        self.world.after(timeout / self.clock.rate, lambda: self.wake(ticket, "timeout"))
        reason: str = self.world.hub.switch()
        return reason

    def wake(self, ticket: int, reason: str) -> None:
        """End the wait of that *ticket*, after the pause if the node is paused."""
        if ticket != self._ticket or not self._greenlet:
            return
        if self.world.now < self.paused_until:
            self.world.at(self.paused_until, lambda: self.wake(ticket, reason))
            return
        self._ticket = 0
        self._greenlet.switch(reason)

    def sleep(self, seconds: float) -> str:
        ticket = self.new_ticket()
        self.world.sleepers[self] = ticket
        reason = self.park(ticket, seconds)
        self.world.sleepers.pop(self, None)
        return reason

    def stall(self) -> None:
        """Stand still between two instructions, sometimes."""
        if self.world.random.random() < self.stall_chance:
            self.world.note(self, "stalls")
            self.park(self.new_ticket(), self.world.random.uniform(0, 2 * self.config.lease_duration))

    def is_cut_off(self, *, is_write: bool) -> bool:
        return self.world.now < (max(self.cut_off_until, self.no_writes_until) if is_write else self.cut_off_until)

    # -- what the elector tells ----------------------------------------------------------------------------------

    def saw(self, stored: StoredRecord) -> None:
        """Remember what the store answered, and since when."""
        if self.seen is None or self.seen[0] != stored:
            self.seen = stored, self.world.now

    def _publish(self, trust: Trust | None) -> None:
        self.published = trust

    def tell(self, method: str, *args: Any) -> None:
        """Stand in for the elector's Observers."""
        self.world.note(self, f"{method} {' '.join(str(argument) for argument in args)}")
        if method == "started":
            self.world.rules.has_begun(self, *args)
        elif method == "stopped":
            self.world.rules.has_ended(self, *args)
            self.world.witness[f"stopped: {args[1]}"] += 1


class World:
    """Everything there is, drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.hub = greenlet.getcurrent()
        self.store = StoreModel()
        self.network = Network(self.random, latency=self.random.choice([0.001, 0.01, 0.1]))
        self.rules = Rules(self)
        self.witness: Counter[str] = Counter()
        self.sleepers: dict[Node, int] = {}
        self.loses_data = False
        self.lost_data_at = -1.0
        self.trace: list[tuple[float, str, str]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.nodes: list[Node] = []

    def add_node(self, *, rate: float, skew: float = 0.0, frozen: bool = False, **config: float) -> Node:
        """Add a machine; it is started by :meth:`Node.start`."""
        clock = NodeClock(self, rate, self.random.uniform(0, 1e6), skew, frozen)
        name = f"n{len(self.nodes) + 1}"
        node = Node(self, name, clock, ElectionConfig("default", name, **config))  # type: ignore[arg-type]
        self.nodes.append(node)
        return node

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(moment, self.now), next(self._order), action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def run_until(self, end: float, *, stop: Callable[[], bool] = lambda: False) -> bool:
        """Let events happen until *end*, or until *stop* says so; return whether it did."""
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self.rules.check()
            if stop():
                return True
        self.now = end
        self.rules.check()
        return stop()

    def apply(self, request: Request) -> StoredRecord:
        """Do a write at the store, under the eyes of the rules."""
        before = self.store.stored
        try:
            stored = self.store.swap(request)
        except Exception:
            self.rules.was_refused(request, before)
            raise
        self.rules.was_written(request, before, stored)
        if before is None or before.record.holder_identity != stored.record.holder_identity:
            self._hint()
        return stored

    def lose_data(self) -> None:
        """Empty the store, as a restart without persistence or an operator's DELETE does."""
        self.note(None, "the store loses its data")
        self.store.lose_data()
        self.lost_data_at = self.now

    def _hint(self) -> None:
        """Tell sleepers of a change, as pub/sub does: some hear it late or not at all."""
        for node, ticket in list(self.sleepers.items()):
            if self.random.random() < 0.7:
                self.after(self.random.uniform(0, 0.05), lambda node=node, ticket=ticket: node.wake(ticket, "hint"))

    def note(self, node: Node | None, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append((self.now, node.identity if node else "", what))

    def story(self, lines: int = 40) -> str:
        """Return the trace's end for people."""
        return "\n".join(f"{moment:10.3f}  {who:6} {what}" for moment, who, what in self.trace[-lines:])
