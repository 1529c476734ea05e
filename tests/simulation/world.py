"""A world of candidates: real electors and real beats on virtual time, each in a greenlet of its own.

All that happens is an event on one heap, in an order that the seed decides. A node runs until it waits for the
store or sleeps; then the next event comes. After each the rules are checked (:mod:`tests.simulation.invariants`).
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING

import greenlet

from celery_leader.election import ElectionConfig, StoredRecord
from celery_leader.election.limits import LONGEST, TOO_MANY
from tests.simulation.beat import BrokerModel
from tests.simulation.beat_rules import BeatRules
from tests.simulation.fibers import VirtualEvent, virtual_time
from tests.simulation.invariants import Rules
from tests.simulation.network import Network
from tests.simulation.node import Node, NodeClock
from tests.simulation.store_model import Request, StoreModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from celery_leader.backends.memory import MemoryLedger

#: What becomes of data that a store had acknowledged.
_LOSSES: dict[str, Callable[[World], None]] = {
    "loses its data": lambda world: world.store.lose_data(),
    "is rolled back": lambda world: world.store.roll_back(),
    "is blanked by an operator": lambda world: world.store.blank(world.now),
    "holds a record of nobody's": lambda world: world.usurp(),
    "holds no record but something else": lambda world: world.damage(),
    "holds a damaged claim": lambda world: world.store.damage_a_claim(world.random.choice(list(world.entries))),
}
#: More events than this at one moment are a loop that never waits.
TOO_MANY_AT_ONCE = 2000


class World:
    """Everything there is, drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.hub = greenlet.getcurrent()
        self.store = StoreModel()
        self.network = Network(self, self.random, latency=self.random.choice([0.001, 0.01, 0.1]))
        self.broker = BrokerModel(self)
        self.entries: dict[str, float] = {}  # periods (seconds) of the periodic tasks; without any there is no beat
        self.rules = Rules(self)
        self.beat_rules = BeatRules(self)
        self.witness: Counter[str] = Counter()
        self.listening: dict[Node, VirtualEvent] = {}
        self.last_request: Request | None = None
        self.storm = 0.0  # hints for no reason, per hint
        self.loses_data = False
        self.wall_clocks_are_right = True  # at this moment, and until now
        self.wall_clocks_step = False
        self.needs_wall_clocks = False
        self.lost_data_at = -1.0
        self.trace: list[tuple[float, str, str, object]] = []
        self.order = itertools.count()
        self._tickets = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self.nodes: list[Node] = []
        self.has_run: Node | None = None  # within this event

    def add_node(self, *, rate: float, skew: float = 0.0, frozen: bool = False, **config: float) -> Node:
        """Add a machine; it is started by :meth:`Node.start`."""
        clock = NodeClock(self, rate, self.random.uniform(0, 1e6), skew, frozen)
        name = f"n{len(self.nodes) + 1}"
        node = Node(self, name, clock, ElectionConfig("default", name, **config))  # type: ignore[arg-type]
        self.nodes.append(node)
        return node

    # -- time ----------------------------------------------------------------------------------------------------

    def at(self, moment: float, action: Callable[[], Any]) -> None:
        heapq.heappush(self._events, (max(moment, self.now), next(self.order), action))

    def after(self, delay: float, action: Callable[[], Any]) -> None:
        self.at(self.now + delay, action)

    def new_ticket(self) -> int:
        """Return what names the next wait: whoever wakes an earlier one comes too late."""
        return next(self._tickets)

    def run_until(self, end: float, *, stop: Callable[[], bool] = lambda: False) -> bool:
        """Let events happen until *end*, or until *stop* says so; return whether it did.

        Raises:
            Violation: A rule was broken.
        """
        self.hub = greenlet.getcurrent()
        with virtual_time(self):
            at_once = 0
            while self._events and self._events[0][0] <= end:
                moment, _, action = heapq.heappop(self._events)
                at_once = at_once + 1 if moment == self.now else 0
                self.rules.require(at_once < TOO_MANY_AT_ONCE, "something never waits")
                self.now = moment
                action()
                if ran := self.has_run:
                    self.has_run = None
                    self.rules.check_after(ran)
                if stop():
                    return True
            self.now = end
            self.rules.check()
            return stop()

    def close(self) -> None:
        """End all that still runs."""
        for node in self.nodes:
            node.crash()

    # -- the store -----------------------------------------------------------------------------------------------

    def apply(self, request: Request) -> StoredRecord:
        """Do a write at the store, under the eyes of the rules."""
        before = self.store.stored
        unchanged_since = self.store.changed_at
        try:
            stored = self.store.swap(request, self.now)
        except Exception:
            self.rules.was_refused(request, before)
            raise
        self.rules.was_written(request, before, stored, unchanged_since)
        if before is None or before.record.holder_identity != stored.record.holder_identity:
            self._hint()
        return stored

    def apply_to_ledger(self, node: Node, name: str, token: int, operation: Callable[[MemoryLedger], Any]) -> Any:
        """Do a call at the ledger, under the eyes of the rules."""
        ledger = self.store.ledger
        before = dict(ledger._claims)
        try:
            answer = operation(ledger)
        except Exception as error:
            self.beat_rules.was_refused(name, error)
            raise
        self.beat_rules.was_written(node, name, token, before, ledger._claims)
        return answer

    def lose_data(self, how: str = "") -> None:
        """Let the store lose or forget something that it had acknowledged."""
        how = how or self.random.choice(list(_LOSSES))
        self.note(None, f"the store {how}")
        self.witness[f"store {how}"] += 1
        _LOSSES[how](self)
        self._hint()
        self.lost_data_at = self.now
        self.beat_rules.data_was_lost()

    def usurp(self) -> None:
        """Put a record there that holds values which no elector writes; an operator deletes it later."""
        lease, token = self.random.choice([1.0, LONGEST]), self.random.choice([1, TOO_MANY - 1])
        known = self.store.stored.record.fencing_token if self.store.stored else 0
        self.store.usurp(self.now, lease=lease, token=max(token, known + 1))
        self._delete_damage_later()

    def damage(self) -> None:
        """Put something else there than a record; an operator deletes it later."""
        self.store.is_damaged = True
        self._delete_damage_later()

    def _delete_damage_later(self) -> None:
        self.after(
            self.random.uniform(0, 1) * max(node.config.lease_duration for node in self.nodes), self._delete_damage
        )

    def _delete_damage(self) -> None:
        if self.store.delete_damage():
            self.note(None, "an operator deletes the record")
            self.witness["damage deleted"] += 1
            self.lost_data_at = self.now
            self.beat_rules.data_was_lost()

    def _hint(self) -> None:
        """Tell sleepers of a change, as pub/sub does: some hear it late, twice or not at all."""
        for event in list(self.listening.values()):
            while self.random.random() < 0.7:
                self.after(self.random.uniform(0, 0.05), event.poke)
                if self.random.random() >= self.storm:
                    break

    def storm_of_hints(self) -> None:
        """Tell of changes that never were."""
        for event in list(self.listening.values()):
            for _ in range(self.random.randint(1, 10)):
                self.after(self.random.uniform(0, 0.2), event.poke)

    # -- for people ----------------------------------------------------------------------------------------------

    def note(self, node: Node | None, what: str, came_to: object = None) -> None:
        """Add a line to the trace; it is put in words when somebody reads it."""
        self.trace.append((self.now, node.identity if node else "", what, came_to))

    def story(self, lines: int = 60) -> str:
        """Return the trace's end for people, and which faults there are."""
        told = [line for line in self.trace[:-lines] if line[2].startswith("fault: ")] + self.trace[-lines:]
        return "\n".join(
            f"{moment:10.3f}  {who:6} {what}{'' if came_to is None else f' -> {came_to}'}"
            for moment, who, what, came_to in told
        )
