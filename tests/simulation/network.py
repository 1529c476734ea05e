"""How long requests and replies take in a world, and which of them are lost, late or doubled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_leader.election import StoredRecord
from celery_leader.exceptions import LeadershipLost, RecordConflict, RecordDamaged, RecordNotFound, StoreUnavailable
from tests.simulation.fibers import current

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.simulation.node import Node
    from tests.simulation.world import World


#: What may happen to a request, each with a chance of its own.
FATES = ("errors", "lost_requests", "lost_replies", "late_requests", "slow_replies", "doubled")


@dataclass(frozen=True)
class Trip:
    """Seconds until a request is applied, from there to the reply, and to an error instead. None: never."""

    request: float | None
    reply: float | None
    refused: float | None = None
    again: float | None = None  # until the same request is applied once more


class Outcome:
    """What a call came to at the store; nothing yet, as long as it is on its way."""

    def __init__(self) -> None:
        self.applied = False
        self.value: Any = None
        self.error: Exception | None = None

    def __str__(self) -> str:
        if isinstance(self.value, StoredRecord):
            record = self.value.record
            return f"v{self.value.version} {record.holder_identity or 'nobody'} token {record.fencing_token}"
        if isinstance(self.value, dict):
            return str({entry: (str(claim.tick.due_at), claim.sent) for entry, claim in self.value.items()})
        return str(self.error or self.value)

    def take(self, operation: Callable[[], Any]) -> None:
        try:
            self.value = operation()
        except (RecordConflict, RecordDamaged, RecordNotFound, LeadershipLost) as error:
            self.error = error
        else:
            self.applied = True


@dataclass
class Network:
    """Chances of each fault; all are 0 once the faults stop."""

    world: World
    random: random.Random
    latency: float = 0.005
    errors: float = 0.0  # answered by an error; nothing was applied
    lost_requests: float = 0.0
    lost_replies: float = 0.0
    late_requests: float = 0.0  # applied long after the caller gave up
    longest: float = 0.0  # that late
    slow_replies: float = 0.0
    doubled: float = 0.0  # applied a second time, perhaps long after

    def call(self, name: str, operation: Callable[[], Any], *, is_write: bool) -> Any:
        """Send, wait for the reply no longer than the caller's bound, and hand out what came.

        Raises:
            StoreUnavailable: No reply came, or one that tells nothing.
        """
        fiber = current()
        node = fiber.node
        node.stall()
        trip = self.trip(node, is_write=is_write)
        outcome, ticket = Outcome(), self.world.new_ticket()

        def arrive() -> None:
            outcome.take(operation)
            self.world.note(node, name, outcome if trip.reply is not None else f"{outcome} (reply lost)")
            if trip.reply is not None:
                self.world.after(trip.reply, lambda: fiber.wake(ticket, "reply"))

        if trip.request is not None:
            self.world.after(trip.request, arrive)
            if trip.again is not None:
                self.world.after(trip.request + trip.again, lambda: self._arrive_again(node, name, operation))
        if trip.refused is not None:
            self.world.after(trip.refused, lambda: fiber.wake(ticket, "refused"))
        reply = fiber.park(node.io_timeout, ticket)
        node.stall()
        if reply == "reply" and outcome.error:
            raise outcome.error
        if reply == "reply":
            return outcome.value
        self.world.note(node, name, reply)
        node.unknown_writes += outcome.applied and is_write
        raise (RecordDamaged if self.random.random() < 0.1 else StoreUnavailable)(f"simulated: {reply}")

    def _arrive_again(self, node: Node, name: str, operation: Callable[[], Any]) -> None:
        outcome = Outcome()
        outcome.take(operation)
        self.world.note(node, f"{name} once more", outcome)
        self.world.witness["request delivered twice"] += 1

    def trip(self, node: Node, *, is_write: bool) -> Trip:
        """Draw the fate of one call."""
        request, reply = self._leg(), self._leg()
        if node.is_cut_off(is_write=is_write):
            return Trip(None, None, refused=reply if self.random.random() < 0.5 else None)
        if any(chances := [getattr(self, fault) for fault in FATES]):
            kind = self.random.random()
            for fault, chance in zip(FATES, chances, strict=True):
                kind -= chance
                if kind < 0:
                    return self._fate(fault, request, reply)
        return Trip(request, reply)

    def _fate(self, fault: str, request: float, reply: float) -> Trip:
        if fault == "errors":
            return Trip(None, None, refused=reply)
        if fault == "lost_requests":
            return Trip(None, None)
        if fault == "lost_replies":
            return Trip(request, None, refused=reply if self.random.random() < 0.5 else None)
        late = self.random.uniform(0, self.longest)
        if fault == "late_requests":
            return Trip(late, reply)
        return Trip(request, late) if fault == "slow_replies" else Trip(request, reply, again=late)

    def heal(self) -> None:
        """End all faults."""
        for fault in FATES:
            setattr(self, fault, 0.0)

    def _leg(self) -> float:
        return self.random.uniform(0.2, 1.8) * self.latency
