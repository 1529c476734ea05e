"""Observers hear all, in order, once, and harm nobody."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from celery_leader.election.observers import Observers
from tests.waiting import eventually


class Recorder:
    """Remembers what it hears; may do something first."""

    def __init__(self, before: Any = lambda: None) -> None:
        self.heard: list[Any] = []
        self._before = before

    def new_leader(self, identity: str) -> None:
        self._before()
        self.heard.append(identity)


def test_each_hears_all_in_order() -> None:
    """A thousand calls, from a queue (M17)."""
    one, other = Recorder(), Recorder()
    observers = Observers([one, other])
    for number in range(1000):
        observers.tell("new_leader", number)
    assert observers.join(10)
    assert one.heard == other.heard == list(range(1000))


@pytest.mark.parametrize("error", [RuntimeError("x"), SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_an_error_ends_neither_the_observer_nor_others(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the next call comes, also after SystemExit, which Celery's own errors are (M18)."""

    def fail() -> None:
        raise error

    broken, good = Recorder(fail), Recorder()
    observers = Observers([broken, good])
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            observers.tell("new_leader", number)
        assert observers.join(10)
    assert good.heard == [0, 1, 2]
    assert len([record for record in caplog.records if "failed on new_leader" in record.message]) == 3


def test_a_slow_one_holds_up_nobody_and_misses_nothing() -> None:
    """Telling returns at once; the slow one hears all when it is ready (RV14, N12)."""
    gate = threading.Event()
    slow, good = Recorder(lambda: gate.wait(20)), Recorder()
    observers = Observers([slow, good])
    for number in range(100):
        observers.tell("new_leader", number)
    eventually(lambda: len(good.heard) == 100)
    assert slow.heard == []
    assert not observers.join(0.01)
    gate.set()
    assert observers.join(10)
    assert slow.heard == list(range(100))


def test_many_slow_ones_are_waited_for_no_longer_than_one() -> None:
    """One of them is never ready before the one before it was; the time is for all."""
    gate = threading.Event()
    observers = Observers([Recorder(lambda seconds=seconds: gate.wait(seconds)) for seconds in (0.5, 1.1, 1.7, 2.3)])
    observers.tell("new_leader", "a")
    begun = time.monotonic()
    assert not observers.join(0.8)
    assert 0.8 <= time.monotonic() - begun < 1.5
    gate.set()
    assert observers.join(10)


def test_an_observer_that_never_returns_does_not_hold_up_the_process() -> None:
    """Its thread is a daemon's, as in Python's client of Kubernetes (PY3)."""
    threads: list[threading.Thread] = []
    observers = Observers([Recorder(lambda: threads.append(threading.current_thread()))])
    observers.tell("new_leader", 1)
    assert observers.join(10)
    assert threads[0].daemon
    assert threads[0] is not threading.current_thread()


def test_no_thread_without_something_to_tell() -> None:
    """Threads end with their queue."""
    observers = Observers([Recorder()])
    observers.tell("new_leader", 1)
    assert observers.join(10)
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "celery-leader-observer"])


def test_a_call_that_no_thread_can_deliver_goes_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of threads, or when the interpreter ends, the elector goes on."""
    recorder = Recorder()
    observers = Observers([recorder])

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        observers.tell("new_leader", 1)
    observers.tell("new_leader", 2)
    assert observers.join(10)
    assert recorder.heard == [1, 2]


def test_an_observer_may_tell_more() -> None:
    """What it causes comes after what it hears."""
    observers: Observers

    class Echo(Recorder):
        def new_leader(self, identity: str) -> None:
            super().new_leader(identity)
            if int(identity) < 3:
                observers.tell("new_leader", int(identity) + 1)

    echo = Echo()
    observers = Observers([echo])
    observers.tell("new_leader", 0)
    eventually(lambda: echo.heard == [0, 1, 2, 3])
