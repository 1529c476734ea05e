"""A real worker of Celery's in this process: its steps run for real, and only the main loop turns when a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery._state import _set_task_join_will_block
from celery.signals import task_received, worker_shutting_down

import celery_leader
from celery_leader import leader_only
from celery_leader.leadership import state
from celery_leader.leadership.campaign import Candidate
from celery_leader.worker.leadership import WorkerLeadership


class LocalWorker:
    """A worker with the pool solo, unless told otherwise, on a broker in memory."""

    def __init__(self, app: Celery, **options: Any) -> None:
        """Make all of its steps; none starts."""
        quiet = {"without_mingle": True, "without_gossip": True, "without_heartbeat": True}
        options = {"pool_cls": "solo", "concurrency": 1, "hostname": "w@here", **quiet, **options}
        self.controller = app.WorkController(**options)
        self.consumer = self.controller.consumer
        self.controller.timer.ensure_started = lambda: None  # no thread: its time stands still
        self.consumer.start = self.connect
        self.consumer.loop = self._begin_to_consume
        self._connected = False

    @property
    def leadership(self) -> WorkerLeadership:
        """The worker's part in its elections."""
        leadership: WorkerLeadership = self.controller.leader
        return leadership

    @property
    def candidate(self) -> Candidate:
        """The worker in the default election."""
        return self.leadership.campaign.candidates["default"]

    def start(self) -> None:
        """Start all steps, the consumer's last."""
        self.controller.blueprint.start(self.controller)

    def connect(self) -> None:
        """Start the consumer's steps, and no others."""
        self._connected = True
        self.consumer.blueprint.start(self.consumer)

    def disconnect(self) -> None:
        """Do what the consumer does when it has lost its broker."""
        self._connected = False
        self.consumer.blueprint.restart(self.consumer)

    def lead(self) -> None:
        """Take the lease by hand: for a worker of which only the consumer was started."""
        assert self.candidate.elector.try_acquire_or_renew()
        self.turn()

    def resign(self) -> None:
        """Give it back."""
        self.candidate.elector.release()
        self.turn()

    def turn(self) -> None:
        """Let the main loop do what others asked it for."""
        self.consumer.perform_pending_operations()

    def consumes(self, queue: str) -> bool:
        """Return whether the broker sends this worker the messages of *queue*."""
        return bool(self.consumer.task_consumer.consuming_from(queue))

    def heartbeats(self) -> int:
        """Return how many timers tell of the main loop's life."""
        assert self.leadership
        own = (self.leadership.readiness.loop_turned,)
        return sum(each.args == own and not each.cancelled for *_, each in self.controller.timer.queue)

    def stop(self) -> None:
        """Stop warmly, or end what was started if that is not all."""
        self.controller.stop()
        if self._connected:
            self.disconnect()
        self.controller.timer.stop()
        if self.controller.leader:
            self.leadership.stop()
            for candidate in self.leadership.campaign.candidates.values():
                candidate.elector.lock.close()

    def _begin_to_consume(self, *_: Any) -> None:
        self.consumer.task_consumer.consume()


def leader_threads() -> list[str]:
    """Return the names of the threads that are ours."""
    return [each.name for each in threading.enumerate() if each.name.startswith("celery-leader")]


@pytest.fixture(autouse=True)
def _own_belief() -> Iterator[None]:
    """Let what a worker tells this process of elections end with the test."""
    with state.registered({}):
        yield


@pytest.fixture(autouse=True)
def _own_receivers() -> Iterator[None]:
    """Let the workers of a test hear no signal of a later one: only garbage collection disconnects them."""
    signals = (task_received, worker_shutting_down)
    before = [list(signal.receivers) for signal in signals]
    yield
    for signal, receivers in zip(signals, before, strict=True):
        signal.receivers[:] = receivers
        signal.sender_receivers_cache.clear()


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    """An app with a guarded task, on a store of its own. Its leases are long: nothing happens by itself."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend=f"memory://{request.node.nodeid}")
    app.conf.update(leader_lease_duration=90, leader_renew_deadline=60, leader_retry_period=25)
    celery_leader.setup(app)

    @app.task(name="guarded", shared=False)
    @leader_only
    def guarded() -> None: ...

    @app.task(name="reports", shared=False)
    @leader_only(election="reports")
    def reports() -> None: ...

    @app.task(name="plain", shared=False)
    def plain() -> None: ...

    app.finalize()
    yield app
    app.close()


@pytest.fixture
def make_worker(app: Celery) -> Iterator[Callable[..., LocalWorker]]:
    """Make workers of the app; each ends with the test."""
    made: list[LocalWorker] = []

    def make(**options: Any) -> LocalWorker:
        made.append(LocalWorker(app, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()
    _set_task_join_will_block(False)  # as making a worker's pool lets this process believe


@pytest.fixture
def worker(make_worker: Callable[..., LocalWorker]) -> LocalWorker:
    """A worker that takes part in the default election. Nothing of it was started."""
    return make_worker()
