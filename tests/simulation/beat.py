"""The beat of a simulated node: the real leader scheduler on Celery's own, and a model of the broker."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.beat import Scheduler
from kombu.exceptions import OperationalError

from celery_leader.beat import gate
from celery_leader.beat.scheduler import leader_scheduler
from celery_leader.settings import LeaderSettings
from tests.simulation.fibers import VirtualEvent, current
from tests.simulation.store_model import SimulatedLedger

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tests.simulation.node import Node, SimulatedCandidate
    from tests.simulation.world import World


class BrokerAway(OperationalError):
    """The broker did not take a message, or did not say that it did."""


class BrokerModel:
    """Takes messages, for ever. May be away, and may take one without saying so."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.away_until = 0.0
        self.lost_confirms = 0.0

    def publish(self, name: str, task_id: str, headers: Mapping[str, str]) -> None:
        world, node = self._world, current().node
        world.beat_rules.may_publish(node, name, task_id, headers)
        latency = world.random.uniform(0.2, 1.8) * world.network.latency
        current().park(latency)
        if world.now < self.away_until:
            world.note(node, f"{name}: the broker is away")
            world.witness["broker away"] += 1
            raise BrokerAway("simulated: away")
        world.note(node, f"{name} is sent, due at", headers["leader_due_at"])
        world.beat_rules.was_sent(node, name, task_id, headers)
        current().park(latency)
        if world.random.random() < self.lost_confirms:
            raise BrokerAway("simulated: no confirm")

    def heal(self) -> None:
        """End all faults."""
        self.away_until = self.lost_confirms = 0.0


class _OneNode(Scheduler):
    """Celery's scheduler of one node: no producer, and messages go to the world's broker."""

    producer = None

    def __init__(self, *args: Any, node: Node, **kwargs: Any) -> None:
        self.node = node
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        self.merge_inplace({name: {"task": name, "schedule": each} for name, each in self.node.world.entries.items()})

    def send_task(self, name: str, *args: Any, task_id: str, headers: dict[str, str], **options: Any) -> None:
        self.node.world.broker.publish(name, task_id, headers)


class _LeaderOneNode(leader_scheduler(_OneNode)):  # type: ignore[misc]  # made at run time
    """What a worker has in each node, on the node's own clock."""

    connection = SimpleNamespace(
        connection_errors=(BrokerAway,), channel_errors=(), transport=SimpleNamespace(driver_type="simulated")
    )

    def monotonic(self) -> float:
        return self.node.clock.monotonic()


class SimulatedBeat:
    """One life's beat thread."""

    def __init__(self, node: Node, candidate: SimulatedCandidate) -> None:
        self._node = node
        self._stopping = VirtualEvent()
        campaign = SimpleNamespace(
            settings=_settings(),
            candidates={"default": candidate},
            backend=SimpleNamespace(ledger=lambda election: SimulatedLedger(node.world, node)),
        )
        self._scheduler = _LeaderOneNode(app=_app(), campaign=campaign, node=node)

    @property
    def is_ticking(self) -> bool:
        return self._scheduler.is_ticking

    def stop(self) -> None:
        """Begin no tick any more."""
        self._stopping.set()

    def run(self) -> None:
        """Tick, as the thread of ``EmbeddedBeat`` does."""
        while not self._stopping.is_set():
            self._stopping.wait(self._tick())

    def _tick(self) -> float:
        node = self._node
        try:
            delay = min(self._scheduler.tick(), gate.STANDBY_WAIT)
        except Exception as error:
            node.world.rules.require(False, f"{node.identity}: a tick of the beat raised {error!r}")
            raise
        if node.closing:
            node.poke()
        return delay


@cache
def _app() -> Celery:
    """One app serves all nodes: what differs between them is their wall clocks."""
    app = Celery("simulation", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", leader_beat=True, beat_schedule={})
    app.now = _now_of_the_node
    return app


@cache
def _settings() -> LeaderSettings:
    return LeaderSettings.from_app(_app())


def _now_of_the_node() -> datetime:
    return current().node.clock.utcnow()
