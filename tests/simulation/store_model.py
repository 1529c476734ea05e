"""The store, and the network in front of it: what a lock of the simulation talks to."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_leader.election import StoredRecord
from celery_leader.exceptions import LockUnavailable, RecordConflict, RecordNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_leader.election import ElectionRecord
    from tests.simulation.world import Node, World


@dataclass(frozen=True)
class Request:
    """A write on its way: who sent it, when, and in which life of that node."""

    node: Node
    identity: str
    sent_at: float
    record: ElectionRecord
    previous: StoredRecord | None


class StoreModel:
    """One record behind compare-and-swap, as ``LockContract`` wants it. No version ever comes twice."""

    def __init__(self) -> None:
        self.stored: StoredRecord | None = None
        self._versions = itertools.count(1)

    def get(self) -> StoredRecord:
        if self.stored is None:
            raise RecordNotFound("the store is empty")
        return self.stored

    def swap(self, request: Request) -> StoredRecord:
        if self.stored != request.previous:
            raise RecordConflict("the store holds another record")
        self.stored = StoredRecord(request.record, next(self._versions))
        return self.stored

    def lose_data(self) -> None:
        self.stored = None


class Outcome:
    """What a call came to at the store; nothing yet, as long as it is on its way."""

    def __init__(self) -> None:
        self.applied = False
        self.value: StoredRecord | None = None
        self.error: Exception | None = None

    def __str__(self) -> str:
        if self.value is None:
            return str(self.error)
        record = self.value.record
        return f"v{self.value.version} {record.holder_identity or 'nobody'} token {record.fencing_token}"

    def take(self, operation: Callable[[], StoredRecord]) -> None:
        try:
            self.value = operation()
        except (RecordConflict, RecordNotFound) as error:
            self.error = error
        else:
            self.applied = True


class SimulatedLock:
    """The lock of one node: each call is a request and a reply on the world's network."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node

    def get(self) -> StoredRecord:
        return self._call("get", self._world.store.get)

    def create(self, record: ElectionRecord) -> StoredRecord:
        return self._write("create", record, None)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        return self._write("update", record, previous)

    def wait(self, timeout: float) -> None:
        raise NotImplementedError("the node sleeps, not its lock")

    interrupt = close = wait  # type: ignore[assignment]

    def describe(self) -> str:
        return "the simulated store"

    def _write(self, name: str, record: ElectionRecord, previous: StoredRecord | None) -> StoredRecord:
        request = Request(self._node, self._node.identity, self._world.now, record, previous)
        self._world.rules.may_send(request)
        return self._call(name, lambda: self._world.apply(request))

    def _call(self, name: str, operation: Callable[[], StoredRecord]) -> StoredRecord:
        """Send, wait for the reply no longer than the lock's bound, and hand out what came."""
        world, node = self._world, self._node
        node.stall()
        trip = world.network.trip(node, is_write=name != "get")
        outcome, ticket = Outcome(), node.new_ticket()

        def arrive() -> None:
            outcome.take(operation)
            world.note(node, f"{name} -> {outcome}{'' if trip.reply else ' (reply lost)'}")
            if trip.reply is not None:
                world.after(trip.reply, lambda: node.wake(ticket, "reply"))

        if trip.request is not None:
            world.after(trip.request, arrive)
        if trip.refused is not None:
            world.after(trip.refused, lambda: node.wake(ticket, "refused"))
        reply = node.park(ticket, node.io_timeout)
        node.stall()
        if reply == "reply" and outcome.error:
            raise outcome.error
        if reply == "reply" and outcome.value:
            node.saw(outcome.value)
            return outcome.value
        world.note(node, f"{name}: {reply}")
        node.unknown_writes += outcome.applied and name != "get"
        raise LockUnavailable(f"simulated: {reply}")
