"""The beat inside a worker."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from celery import Celery, signals
from celery.beat import Scheduler, Service

from celery_leader.beat import standalone
from celery_leader.beat.base import FAREWELL_PATIENCE
from celery_leader.beat.embedded import EmbeddedBeat
from celery_leader.leadership.campaign import Campaign, backend_of
from celery_leader.settings import LeaderSettings
from tests.beat.machines import EVERY_TEN, Machine, Machines, dues
from tests.waiting import eventually


def test_a_worker_does_not_consume_what_its_beat_sends_elsewhere() -> None:
    """Celery 5.5 adds each queue that is sent to by name to those that the process consumes from."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", leader_beat=True, task_queues=None)
    settings = LeaderSettings.from_app(app)
    campaign = Campaign(settings, ["default"], backend=backend_of(settings, "proj"), nodename="w@h")
    EmbeddedBeat(app, campaign)
    app.send_task("t", queue="elsewhere")
    assert list(app.amqp.queues.consume_from) == ["celery"]
    app.amqp.queues.select_add("asked for")  # as `control add_consumer` does
    assert set(app.amqp.queues.consume_from) == {"celery", "asked for"}


class Written(Scheduler):
    """Writes last runs down in ``sync``, as schedulers with a store do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.written: list[int] = []
        super().__init__(*args, **kwargs)

    def sync(self) -> None:
        self.written.append(self.schedule["ten"].total_run_count)


@pytest.fixture
def worker(machines: Machines) -> Machine:
    """A worker's machine with an embedded beat that leads and writes last runs down."""
    machines.schedule = EVERY_TEN
    machines.conf["leader_beat_scheduler"] = f"{__name__}:Written"
    machine = machines.add()
    machine.beat = EmbeddedBeat(machine.scheduler.app, machine.campaign)  # type: ignore[attr-defined]
    machine.scheduler = machine.beat._scheduler  # type: ignore[attr-defined]
    machine.scheduler.sync_every = 1e9  # Celery's cadence is not what is tested
    machine.lead()
    machine.tick_until_idle()
    machine.scheduler._do_sync()
    machine.scheduler.written.clear()
    return machine


def test_what_was_sent_is_written_before_the_lease_goes_back(machines: Machines, worker: Any) -> None:
    """The election asks whether the beat is busy, and waits until it has written: afterwards it may not."""
    assert not worker.beat.is_busy
    machines.wall.advance(10)
    worker.scheduler.tick()
    assert worker.scheduler.written == []
    worker.campaign.close_to_new_work()
    assert worker.beat.is_busy
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        worker.scheduler.tick()
    assert worker.scheduler.written == [1]
    assert not worker.beat.is_busy
    assert dues(machines.sent()) == [10]


def test_a_beat_is_busy_while_it_ticks(machines: Machines, worker: Any) -> None:
    """The lease is kept until the tick has ended, however it ends."""
    seen: list[bool] = []
    send = worker.scheduler.app.send_task

    def sent(*args: Any, **kwargs: Any) -> Any:
        seen.append(worker.scheduler.is_busy)
        return send(*args, **kwargs)

    machines.wall.advance(10)
    with mock.patch.object(worker.scheduler.app, "send_task", sent):
        worker.scheduler.tick()
    assert seen == [True]
    assert not worker.scheduler.is_busy
    failed = mock.Mock(side_effect=SystemExit)
    machines.wall.advance(10)
    with mock.patch.object(worker.scheduler.app, "send_task", failed), pytest.raises(SystemExit):
        worker.scheduler.tick()
    assert not worker.scheduler.is_ticking


def test_a_beat_that_resigns_writes_and_goes_on(machines: Machines, worker: Any) -> None:
    """Guarded work may keep the lease for longer; what the beat sends meanwhile is written as well."""
    for count in (1, 2):
        machines.wall.advance(10)
        worker.scheduler.tick()
        assert worker.beat.is_busy
        worker.scheduler.tick()
        assert worker.scheduler.written[-1] == count
        assert not worker.beat.is_busy
    assert dues(machines.sent()) == [10, 20]


def test_a_lease_waits_for_no_store_that_hangs(machines: Machines, worker: Any) -> None:
    """Some seconds, and others may lead."""
    machines.wall.advance(10)
    worker.scheduler.tick()
    now = time.monotonic()
    with mock.patch.object(worker.scheduler._farewell, "_now", return_value=now) as clock:
        assert worker.beat.is_busy
        clock.return_value = now + FAREWELL_PATIENCE + 0.1
        assert not worker.beat.is_busy


def test_a_stopping_worker_cuts_a_wait_for_its_broker(machines: Machines, worker: Any) -> None:
    """When the election has wanted the lease back for a while, and not before; nor in a worker that goes on."""
    now = time.monotonic()
    cut, clock = mock.Mock(), mock.Mock(return_value=now)
    with mock.patch.object(worker.scheduler, "cut", cut), mock.patch("time.monotonic", clock):
        _ = worker.beat.is_busy
        clock.return_value += 2 * standalone.PATIENCE
        _ = worker.beat.is_busy
        worker.campaign.close_to_new_work()
        _ = worker.beat.is_busy
        clock.return_value += standalone.PATIENCE
        _ = worker.beat.is_busy
        assert not cut.called
        clock.return_value += 0.1
        _ = worker.beat.is_busy
    assert cut.call_count == 1


def test_a_deposed_beat_writes_nothing(machines: Machines, worker: Any) -> None:
    """Its successor may have written already."""
    machines.wall.advance(10)
    worker.scheduler.tick()
    worker.resign()
    assert worker.beat.is_busy
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        worker.scheduler.tick()
    worker.scheduler.close()
    assert worker.scheduler.written == []


def test_code_that_wants_to_exit_ends_no_embedded_beat(worker: Any) -> None:
    """The worker would go on to lead, and nothing would be sent any more: no thread tells of a SystemExit."""
    ticks = mock.Mock(side_effect=[SystemExit("a receiver gave up"), 0.01, *[0.01] * 1000])
    with mock.patch.object(worker.scheduler, "tick", ticks), mock.patch("celery_leader.beat.embedded.STANDBY_WAIT", 0):
        worker.beat.start()
        eventually(lambda: ticks.call_count > 2)
        worker.beat.stop(5)


def test_the_signals_of_an_embedded_beat_are_sent(machines: Machines) -> None:
    """As Celery does: both, by the thread that ticks, with a service for a sender; no receiver ends the beat."""
    machines.schedule = EVERY_TEN
    machine = machines.add()
    beat = EmbeddedBeat(machine.scheduler.app, machine.campaign)
    seen: list[tuple[str, Any, Any, str]] = []

    def receiver(name: str) -> Callable[..., None]:
        def receive(sender: Any, **_: Any) -> None:
            seen.append((name, type(sender), sender.scheduler, threading.current_thread().name))
            sys.exit("as celery-leader itself does in a beat that follows no leader")

        return receive

    receivers = {name: receiver(name) for name in ("beat_init", "beat_embedded_init")}
    for name, each in receivers.items():
        getattr(signals, name).connect(each)
    try:
        machine.lead()
        beat.start()
        eventually(lambda: "ten" in beat._scheduler.schedule)
    finally:
        beat.stop(timeout=5)
        for name, each in receivers.items():
            getattr(signals, name).disconnect(each)
    assert seen == [(name, Service, beat._scheduler, "celery-leader-beat") for name in receivers]
