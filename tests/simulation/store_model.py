"""The store: one record and one ledger, which lose or forget things together; and each node's way to them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery_leader.backends.memory import MemoryLedger
from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.election.limits import LATEST, TOO_MANY
from celery_leader.exceptions import RecordConflict, RecordDamaged, RecordNotFound
from tests.simulation.fibers import VirtualEvent, current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from celery_leader.ledger import Claim
    from tests.simulation.node import Node
    from tests.simulation.world import World


#: The holder of a record that no elector wrote.
GHOST = "ghost"


@dataclass(frozen=True)
class Request:
    """A write on its way: who sent it, when, and in which life of that node."""

    node: Node
    identity: str
    sent_at: float
    record: ElectionRecord
    previous: StoredRecord | None


@dataclass(frozen=True)
class Snapshot:
    """All that a store held at one moment."""

    stored: StoredRecord | None
    version: int
    token: int
    claims: Mapping[str, Claim]
    changed_at: float


class StoreModel:
    """One record behind compare-and-swap, as ``LockContract`` wants it, and the reference ledger."""

    def __init__(self) -> None:
        self.stored: StoredRecord | None = None
        self.ledger = MemoryLedger("default")
        self.changed_at = 0.0
        self.is_damaged = False
        self._version = 0
        self._first_written: dict[StoredRecord, float] = {}
        self._snapshot: Snapshot | None = None

    def get(self) -> StoredRecord:
        if self.is_damaged:
            raise RecordDamaged("the store holds no record")
        if self.stored is None:
            raise RecordNotFound("the store is empty")
        return self.stored

    def swap(self, request: Request, now: float) -> StoredRecord:
        if self.is_damaged or self.stored != request.previous:
            raise RecordConflict("the store holds another record")
        return self._put(request.record, now)

    def _put(self, record: ElectionRecord, now: float) -> StoredRecord:
        self._version += 1
        self.stored = StoredRecord(record, self._version)
        # After a roll-back a request that is delivered twice writes what followers have seen before: to them, and to
        # any store that compares contents, nothing has changed since.
        self.changed_at = self._first_written.setdefault(self.stored, now)
        return self.stored

    # -- what stores should not do -------------------------------------------------------------------------------

    def lose_data(self) -> None:
        """Forget all, as a restart without persistence or an operator's DELETE does."""
        self.stored = None
        self.ledger.clear()

    def blank(self, now: float) -> None:
        """Take the lease from its holder, as an operator does who edits the record."""
        if self.stored:
            self._put(self.stored.record.released(self.stored.record.renew_time), now)

    def usurp(self, now: float, *, lease: float, token: int) -> None:
        """Let nobody's record take the place of the record, as whoever may write to the store can."""
        if self.stored:
            self._put(ElectionRecord(GHOST, lease, leader_transitions=TOO_MANY - 1, fencing_token=token), now)

    def delete_damage(self) -> bool:
        """Delete a record that no elector wrote, as an operator does; return whether there was one."""
        was_there = self.is_damaged or (self.stored is not None and self.stored.record.holder_identity == GHOST)
        if was_there:
            self.stored, self.is_damaged = None, False
        return was_there

    def damage_a_claim(self, entry: str) -> None:
        """Let the claim of *entry* be due long after it was claimed: no later one can take its place."""
        if claim := self.ledger._claims.get(entry):
            tick = replace(claim.tick, due_at=LATEST)
            self.ledger._claims[entry] = replace(claim, tick=tick, task_id="", sent=True)

    def take_snapshot(self) -> None:
        """Remember this state, as a replica does that falls behind from here on."""
        claims = copy.copy(self.ledger._claims)
        self._snapshot = Snapshot(self.stored, self._version, self.ledger._token, claims, self.changed_at)

    def roll_back(self) -> None:
        """Go back to the snapshot, as a store does whose replica was promoted. Versions come again."""
        if snapshot := self._snapshot:
            self.stored, self._version, self.changed_at = snapshot.stored, snapshot.version, snapshot.changed_at
            self.ledger._token, self.ledger._claims = snapshot.token, dict(snapshot.claims)


class SimulatedLock:
    """The lock of one life of a node: each call is a request and a reply on the world's network."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node
        self._interrupted = VirtualEvent()

    def get(self) -> StoredRecord:
        node = self._node
        node.was_told_of_none = False
        try:
            stored: StoredRecord = self._world.network.call("get", self._world.store.get, is_write=False)
        except RecordNotFound:
            node.was_told_of_none = True
            raise
        node.saw(stored)
        return stored

    def create(self, record: ElectionRecord) -> StoredRecord:
        return self._write("create", record, None)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        return self._write("update", record, previous)

    def wait(self, timeout: float) -> None:
        self._world.listening[self._node] = self._interrupted
        try:
            self._interrupted.wait(timeout)
        finally:
            self._world.listening.pop(self._node, None)
        self._interrupted.clear()

    def interrupt(self) -> None:
        self._interrupted.set()

    def describe(self) -> str:
        return "the simulated store"

    def close(self) -> None:
        pass

    def _write(self, name: str, record: ElectionRecord, previous: StoredRecord | None) -> StoredRecord:
        world, node = self._world, self._node
        current().live()
        request = world.last_request = Request(node, node.identity, world.now, record, previous)
        world.rules.may_send(request)
        stored: StoredRecord = world.network.call(name, lambda: world.apply(request), is_write=True)
        node.saw(stored)
        return stored


class SimulatedLedger:
    """The ledger of one life of a node. What a batch may be is taken once: its request may be applied twice."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node

    def open(self, token: int) -> Mapping[str, Claim]:
        return self._call("open", token, lambda ledger: ledger.open(token))

    def claim(self, token: int, claims: Sequence[Claim]) -> Sequence[bool]:
        claims = list(claims)
        return self._call("claim", token, lambda ledger: ledger.claim(token, claims), claims)

    def confirm(self, token: int, claims: Iterable[Claim]) -> None:
        claims = list(claims)
        self._call("confirm", token, lambda ledger: ledger.confirm(token, claims), claims)

    def restore(self, token: int, claims: Iterable[Claim]) -> None:
        claims = list(claims)
        self._call("restore", token, lambda ledger: ledger.restore(token, claims), claims)

    def forget(self, token: int, entries: Iterable[str]) -> None:
        entries = list(entries)
        self._call("forget", token, lambda ledger: ledger.forget(token, entries))

    def close(self) -> None:
        pass

    def _call(
        self, name: str, token: int, operation: Callable[[MemoryLedger], Any], claims: Sequence[Claim] = ()
    ) -> Any:
        world, node = self._world, self._node
        try:
            answer = world.network.call(
                f"ledger {name}", lambda: world.apply_to_ledger(node, name, token, operation), is_write=True
            )
        except Exception as error:
            world.beat_rules.was_answered(node, name, claims, error)
            raise
        world.beat_rules.was_answered(node, name, claims, answer)
        return answer
