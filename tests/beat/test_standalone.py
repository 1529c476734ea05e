"""A beat of its own ends by signals: what it sends is confirmed first, and a broker that hangs is not waited for."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from celery import Celery

from celery_leader.beat import leading, standalone
from celery_leader.beat.claims import Claims
from celery_leader.beat.standalone import Standalone
from celery_leader.settings import LeaderSettings
from tests.beat.machines import EVERY_TEN, Machines, dues
from tests.servers import RedisServer
from tests.servers.processes import free_port
from tests.waiting import eventually

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals that reached the handler that was there before."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda number, _: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def handling(handled: list[int]) -> Iterator[Callable[[Callable[[], None]], Standalone]]:
    """Make a beat of its own that handles signals and never leads; it cuts by what it is given."""
    all_made: list[Standalone] = []

    def make(cut: Callable[[], None]) -> Standalone:
        app = Celery("proj", broker="memory://", set_as_current=False)
        app.conf.update(leader_backend="memory://", leader_eligible=False)
        made = Standalone(app, LeaderSettings.from_app(app), cut=cut)
        all_made.append(made)
        with mock.patch.object(made.campaign, "start"):
            made.start()
        return made

    yield make
    for made in all_made:
        made.stop()


def signal_itself() -> None:
    """Get a SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_wait_for_a_broker_is_cut(handled: list[int], handling: Any) -> None:
    """Soon after the signal, which is handled then. The waiting call fails; nothing is raised anywhere else."""
    silent, other = socket.socketpair()
    beat = handling(lambda: silent.shutdown(socket.SHUT_RDWR))
    begun = time.monotonic()
    with silent, other, mock.patch.object(standalone, "PATIENCE", 0.2), beat.signals_held_back():
        silent.settimeout(20)
        os.kill(os.getpid(), signal.SIGTERM)
        assert silent.recv(1) == b""
        assert handled == []
        assert beat.is_ending
    assert handled == [signal.SIGTERM]
    assert not beat.is_ending
    assert 0.1 < time.monotonic() - begun < 5


def test_a_wait_is_cut_again_until_the_tick_ends(handled: list[int], handling: Any) -> None:
    """kombu connects and waits once more. After the tick, and before a signal, nothing is cut."""
    cuts = mock.Mock()
    beat = handling(cuts)
    with mock.patch.object(standalone, "PATIENCE", 0.05), mock.patch.object(standalone, "_CUT_AGAIN", 0.01):
        for round_ in (1, 2):
            with beat.signals_held_back():
                before = cuts.call_count
                os.kill(os.getpid(), signal.SIGHUP)
                eventually(lambda before=before: cuts.call_count >= before + 3)
            after = cuts.call_count
            deadline = time.monotonic() + 0.2
            with beat.signals_held_back():
                eventually(lambda deadline=deadline: time.monotonic() > deadline)
            assert cuts.call_count <= after + 1
            assert handled == [signal.SIGHUP] * round_


def test_a_signal_between_two_ticks_does_not_wait(handled: list[int], handling: Any) -> None:
    """Nothing is sent then, and the next tick may be a minute away."""
    beat = handling(mock.Mock())
    with beat.signals_held_back():
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert handled == [signal.SIGTERM]


def test_a_signal_that_nobody_handles_ends_the_beat(handled: list[int], handling: Any) -> None:
    """In the way of Python, so that everything is closed; by itself it would kill the process."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    beat = handling(mock.Mock())
    with pytest.raises(SystemExit) as ended, beat.signals_held_back():
        os.kill(os.getpid(), signal.SIGHUP)
    assert ended.value.code == 0


def test_no_thread_outlives_the_beat(handling: Any) -> None:
    """A program may make several."""
    beat = handling(mock.Mock())
    assert any(thread.name == "celery-leader-beat-end" for thread in threading.enumerate())
    beat.stop()
    eventually(lambda: not any(thread.name == "celery-leader-beat-end" for thread in threading.enumerate()))


def test_a_second_signal_does_not_wait(handled: list[int], handling: Any) -> None:
    """Whoever is in a hurry sends it twice."""
    with handling(mock.Mock()).signals_held_back():
        os.kill(os.getpid(), signal.SIGTERM)
        assert handled == []
        os.kill(os.getpid(), signal.SIGINT)
        assert handled == [signal.SIGINT]
    assert handled == [signal.SIGINT, signal.SIGTERM]


def test_a_signal_that_is_ignored_ends_nothing(handled: list[int], handling: Any) -> None:
    """A beat that was started by nohup goes on sending when its terminal is closed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    beat = handling(mock.Mock())
    with beat.signals_held_back():
        os.kill(os.getpid(), signal.SIGHUP)
        assert not beat.is_ending
        os.kill(os.getpid(), signal.SIGTERM)
        assert beat.is_ending
    assert handled == [signal.SIGTERM]


def test_a_handler_that_ends_nothing_stops_no_beat(handled: list[int], handling: Any, machines: Machines) -> None:
    """A project may open its logs anew on SIGHUP; the beat goes on, however late the tick was that it came in."""
    machines.schedule = {**EVERY_TEN, "other": {"task": "t.other", "schedule": 10.0}}
    leader = machines.add()
    leader.lead()
    leader.tick_until_idle()
    leader.scheduler._standalone = handling(leader.scheduler.cut)
    machines.wall.advance(10)
    send = leader.scheduler.app.send_task

    def signalled(*args: object, **kwargs: object) -> object:
        os.kill(os.getpid(), signal.SIGHUP)
        return send(*args, **kwargs)

    with (
        mock.patch.object(leading, "ENDING_TIME", 0.0),
        mock.patch.object(leader.scheduler.app, "send_task", signalled),
    ):
        leader.scheduler.tick()
    assert handled == [signal.SIGHUP]
    assert len(machines.sent()) == 1, "the other run waits for the next tick: the process seemed about to end"
    leader.tick_until_idle()
    assert dues(machines.sent()) == [10]
    machines.wall.advance(10)
    leader.tick_until_idle()
    assert dues(machines.sent()) == [20, 20]


@pytest.mark.parametrize(("is_connected", "brokers"), [(True, 1), (False, 1), (False, 2)])
def test_a_message_that_is_cut_stays_claimed(
    handled: list[int], handling: Any, machines: Machines, redis_server: RedisServer, is_connected: bool, brokers: int
) -> None:
    """On its way, or while the connection is made, perhaps to the second broker; it is sent when that is back."""
    machines.schedule, machines.conf = EVERY_TEN, {"task_default_queue": "cut-in-time"}
    others = [f"redis://127.0.0.1:{free_port()}/0"] * (brokers - 1)
    leader = machines.add(broker=";".join([*others, redis_server.url]))
    leader.lead()
    leader.tick_until_idle()
    leader.scheduler._standalone = handling(leader.scheduler.cut)
    if is_connected:
        _ = leader.scheduler.producer.channel
    machines.wall.advance(10)
    redis_server.pause()
    try:
        with mock.patch.object(standalone, "PATIENCE", 0.2):
            begun = time.monotonic()
            with mock.patch.object(leader.scheduler._entries, "allow_shortcuts", signal_itself):
                leader.scheduler.tick()
            lasted = time.monotonic() - begun
    finally:
        redis_server.resume()
    assert handled == [signal.SIGTERM]
    assert lasted < leader.scheduler._settings.io_timeout * 0.6
    assert not machines.ledger._claims["ten"].sent
    for _ in range(brokers):
        leader.tick_until_idle()
    assert machines.ledger._claims["ten"].sent


def test_nothing_is_sent_by_a_connection_that_was_cut(handled: list[int], handling: Any, machines: Machines) -> None:
    """A slow ledger may have kept the tick. kombu would repeat what is cut, though the broker may have had it."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    leader.scheduler._standalone = handling(leader.scheduler.cut)
    machines.wall.advance(10)
    claim = Claims.claim

    def slow(claims: Claims, wanted: Any) -> list[bool]:
        accepted = claim(claims, wanted)
        signal_itself()
        eventually(lambda: leader.scheduler._publisher.was_cut)
        return accepted

    with mock.patch.object(standalone, "PATIENCE", 0.05), mock.patch.object(Claims, "claim", slow):
        leader.scheduler.tick()
    assert handled == [signal.SIGTERM]
    assert machines.sent() == []
    leader.tick_until_idle()  # the project's own handler ended nothing
    assert dues(machines.sent()) == [10]
