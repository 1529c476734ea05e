"""What wakes an elector's thread: a signal handler's ring, and a hint that counts once."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import Candidacy, ElectionConfig, ElectorThread, LeaderElector
from celery_leader.election.thread import Bell
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_leader.election import StoredRecord

SLOW = {"lease_duration": 60.0, "renew_deadline": 40.0, "retry_period": 10.0}


class Counting(MemoryLock):
    """Remembers when it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[float] = []

    def get(self) -> StoredRecord:
        self.looks.append(time.monotonic())
        return super().get()


@pytest.fixture
def lock() -> Counting:
    return Counting()


@pytest.fixture
def started() -> Iterator[list[ElectorThread]]:
    """Threads to be stopped in the end."""
    threads: list[ElectorThread] = []
    yield threads
    for thread in threads:
        assert thread.stop(10)


def test_a_ring_has_a_leader_hand_over_at_once(
    lock: Counting, started: list[ElectorThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not wait for the leader's next look, which would come in half a minute here."""
    monkeypatch.setattr("celery_leader.election.thread.LOOK_PERIOD", 30.0)
    mode = [Candidacy.CONTEND]
    config = ElectionConfig("default", "a", **SLOW)
    started.append(ElectorThread(LeaderElector(config, lock), candidacy=lambda: mode[0]))
    started[0].start()
    eventually(started[0].elector.is_leader)
    mode[0] = Candidacy.HOLD
    begun = time.monotonic()
    started[0].ring()
    eventually(lambda: not lock.get().record.holder_identity, 5, interval=0.002)
    assert time.monotonic() - begun < 1


def test_a_ring_changes_nothing_else(lock: Counting, started: list[ElectorThread]) -> None:
    """A leader that may go on goes on, without an attempt before its time."""
    config = ElectionConfig("default", "a", **SLOW)
    started.append(ElectorThread(LeaderElector(config, lock)))
    started[0].start()
    eventually(started[0].elector.is_leader)
    version = lock.get().version
    for _ in range(5):
        started[0].ring()
        eventually(started[0]._bell._silence.locked, what="the ring was heard")
    assert started[0].elector.is_leader()
    assert lock.get().version == version


def test_a_bell_may_be_rung_in_a_signal_handler() -> None:
    """Also in one that interrupts a ring. (An Event's set() waits for itself for ever then, sooner or later.)"""
    bell, heard, done = Bell(), [0], threading.Event()

    def listen() -> None:
        while not done.is_set():
            heard[0] += bell.wait(0.01)

    listener = threading.Thread(target=listen, daemon=True)
    rung = [0]

    def handle(number: int, frame: object) -> None:
        rung[0] += 1
        bell.ring()

    previous = signal.signal(signal.SIGVTALRM, handle)
    listener.start()
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end or rung[0] < 10:
            bell.ring()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
        done.set()
    listener.join(10)
    assert not listener.is_alive()
    assert heard[0]


def test_rings_that_nobody_waited_for_are_one() -> None:
    """No queue of them, and none without a ring."""
    bell = Bell()
    assert not bell.wait(0)
    for _ in range(5):
        bell.ring()
    assert bell.wait(30)
    begun = time.monotonic()
    assert not bell.wait(0.05)
    assert time.monotonic() - begun >= 0.05


def test_what_was_told_before_a_look_causes_no_second_one(
    lock: Counting, started: list[ElectorThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release and the takeover that follows it are one request of each candidate that was slower."""
    monkeypatch.setattr("celery_leader.election.thread.random.uniform", lambda least, most: 0.3)
    leader = LeaderElector(ElectionConfig("default", "a", **SLOW), lock)
    assert leader.try_acquire_or_renew()
    follower = ElectorThread(LeaderElector(ElectionConfig("default", "b", **SLOW), lock))
    started.append(follower)
    follower.start()
    eventually(lambda: follower.elector.get_leader() == "a")
    held = lock.get()
    lock.looks.clear()
    vacant = lock.update(replace(held.record, holder_identity=""), held)
    lock.update(replace(held.record, holder_identity="c"), vacant)
    eventually(lambda: follower.elector.get_leader() == "c")
    looks = len(lock.looks)
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > 0.6)  # twice the delay after a hint
    assert looks == len(lock.looks) == 1
