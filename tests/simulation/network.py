"""How long requests and replies take in a world, and which of them are lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from tests.simulation.world import Node


@dataclass(frozen=True)
class Trip:
    """Seconds until a request is applied, from there to the reply, and to an error instead. None: never."""

    request: float | None
    reply: float | None
    refused: float | None = None


@dataclass
class Network:
    """Chances of each fault; all are 0 once the faults stop."""

    random: random.Random
    latency: float = 0.005
    errors: float = 0.0  # answered by an error; nothing was applied
    lost_requests: float = 0.0
    lost_replies: float = 0.0
    late_requests: float = 0.0  # applied long after the caller gave up
    longest: float = 0.0  # that late
    slow_replies: float = 0.0

    def trip(self, node: Node, *, is_write: bool) -> Trip:
        """Draw the fate of one call."""
        request, reply = self._leg(), self._leg()
        if node.is_cut_off(is_write=is_write):
            return Trip(None, None, refused=reply if self.random.random() < 0.5 else None)
        kind = self.random.random()
        for chance, trip in (
            (self.errors, Trip(None, None, refused=reply)),
            (self.lost_requests, Trip(None, None)),
            (self.lost_replies, Trip(request, None, refused=reply if self.random.random() < 0.5 else None)),
            (self.late_requests, Trip(self.random.uniform(0, self.longest), reply)),
            (self.slow_replies, Trip(request, self.random.uniform(0, self.longest))),
        ):
            kind -= chance
            if kind < 0:
                return trip
        return Trip(request, reply)

    def heal(self) -> None:
        """End all faults."""
        self.errors = self.lost_requests = self.lost_replies = self.late_requests = self.slow_replies = 0.0

    def _leg(self) -> float:
        return self.random.uniform(0.2, 1.8) * self.latency
