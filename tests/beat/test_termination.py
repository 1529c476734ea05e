"""What waits for a broker that hangs is cut off after a signal, and nothing else is."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
from kombu.serialization import codec

from celery_leader.beat import sender, termination
from celery_leader.beat.termination import CutOff, Termination
from tests.beat.conftest import EVERY_TEN, Fleet, Machine, dues
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
def alarms() -> Iterator[mock.Mock]:
    """Who else in the process uses the alarm, which goes off in a minute."""
    handler = mock.Mock()
    before = signal.signal(signal.SIGALRM, handler)
    timer = signal.setitimer(signal.ITIMER_REAL, 60.0, 30.0)
    yield handler
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def leading_by_itself(fleet: Fleet) -> Machine:
    """A machine that leads, whose beat is one of its own."""
    fleet.schedule = EVERY_TEN
    leader = fleet.machine()
    leader.lead()
    leader.tick_until_idle()
    leader.scheduler._termination = Termination.install()
    return leader


def be_told_and_hang(number: int, *_: Any, **__: Any) -> None:
    """Get the signal *number* while waiting for a broker that says nothing."""
    os.kill(os.getpid(), number)
    eventually(lambda: False, timeout=5)


def test_a_wait_for_a_broker_is_cut_off(handled: list[int], alarms: mock.Mock) -> None:
    """Soon after the signal, which is handled then; whoever had the alarm has it again."""
    installed = Termination.install()
    assert installed
    silent, other = socket.socketpair()
    begun = time.monotonic()
    with silent, other, mock.patch.object(termination, "PATIENCE", 0.2):
        silent.settimeout(20)
        with installed.held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(CutOff), installed.cutting_off():
                silent.recv(1)
            assert handled == []
            assert installed.is_late
    assert handled == [signal.SIGTERM]
    assert 0.1 < time.monotonic() - begun < 5
    assert signal.getsignal(signal.SIGALRM) is alarms
    assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    assert alarms.call_count == 0


def test_what_follows_a_claim_is_not_cut_off(handled: list[int], alarms: mock.Mock) -> None:
    """Only what waits for a broker may end in the middle, however late it is; then that is cut off at a later alarm."""
    installed = Termination.install()
    assert installed
    with mock.patch.object(termination, "PATIENCE", 0.05), installed.held_back():
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: installed.is_late)
        with pytest.raises(CutOff), installed.cutting_off():
            eventually(lambda: False, timeout=5)
    assert handled == [signal.SIGHUP]


def test_nothing_is_cut_off_without_a_signal(handled: list[int], alarms: mock.Mock) -> None:
    """Nor is the alarm touched."""
    installed = Termination.install()
    assert installed
    with mock.patch.object(termination, "PATIENCE", 0.01), installed.held_back(), installed.cutting_off():
        begun = time.monotonic()
        eventually(lambda: time.monotonic() > begun + 0.1)
        assert signal.getsignal(signal.SIGALRM) is alarms
    assert handled == []
    assert not installed.is_late


def test_a_signal_that_is_ignored_ends_nothing(handled: list[int]) -> None:
    """A beat that was started by nohup goes on sending when its terminal is closed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    installed = Termination.install()
    assert installed
    with installed.held_back():
        os.kill(os.getpid(), signal.SIGHUP)
        assert not installed.is_pending
        os.kill(os.getpid(), signal.SIGTERM)
        assert installed.is_pending
    assert handled == [signal.SIGTERM]


def test_a_handler_that_ends_nothing_stops_no_beat(handled: list[int], alarms: mock.Mock, fleet: Fleet) -> None:
    """A project may open its logs anew on SIGHUP; the beat goes on, however late the tick was that it came in."""
    leader = leading_by_itself(fleet)
    hang = partial(be_told_and_hang, signal.SIGHUP)
    fleet.wall.advance(10)
    with (
        mock.patch.object(termination, "PATIENCE", 0.05),
        mock.patch.object(sender, "ENDING_TIME", 0.0),
        mock.patch.object(leader.scheduler.app, "send_task", hang),
    ):
        leader.scheduler.tick()
    assert handled == [signal.SIGHUP]
    for _ in range(2):
        leader.tick_until_idle()
        fleet.wall.advance(10)
    assert dues(fleet.sent()) == [10, 20]


def test_a_message_that_is_cut_off_stays_claimed_wherever_it_is(
    handled: list[int], alarms: mock.Mock, fleet: Fleet
) -> None:
    """In a serialiser, say, whose errors kombu takes for those of a message that can never be sent."""
    leader = leading_by_itself(fleet)
    hang = partial(be_told_and_hang, signal.SIGTERM)
    fleet.wall.advance(10)
    with (
        mock.patch.object(termination, "PATIENCE", 0.05),
        mock.patch("kombu.serialization.registry._encoders", {"json": codec("application/json", "utf-8", hang)}),
    ):
        leader.scheduler.tick()
    assert handled == [signal.SIGTERM]
    assert not fleet.ledger._claims["ten"].sent
    leader.tick_until_idle()
    assert dues(fleet.sent()) == [10]
