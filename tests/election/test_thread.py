"""The thread: it stops when told, at once, and for no other reason. Real threads, no fixed sleeps."""

from __future__ import annotations

import threading
import time

import pytest

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import Candidacy, ElectionConfig, ElectorThread, LeaderElector, Term
from tests.election.running import FAST, Harmful, Make, holder, leads
from tests.election.stage import Heard
from tests.waiting import eventually


def test_stop_releases(threads: Make) -> None:
    """The lease is given back before stop() returns, and the thread is gone."""
    lock = MemoryLock()
    thread = threads(lock)
    eventually(leads(thread))
    assert thread.stop(10)
    assert not thread.is_alive
    assert not thread.elector.is_leader()
    assert holder(lock) == ""


def test_stop_without_release_on_cancel_leaves_the_lease(threads: Make) -> None:
    """Who asked for that wants the next leader to wait."""
    lock = MemoryLock()
    thread = ElectorThread(LeaderElector(ElectionConfig("default", "a", release_on_cancel=False), lock))
    thread.start()
    eventually(leads(thread))
    assert thread.stop(10)
    assert holder(lock) == "a"


def test_stop_may_be_repeated_and_come_first() -> None:
    """Before start, twice, from the thread itself; but a stopped one is not started again."""
    lock = MemoryLock()
    thread = ElectorThread(LeaderElector(ElectionConfig("default", "a"), lock))
    assert thread.stop()
    assert thread.stop()
    with pytest.raises(RuntimeError, match="make a new one"):
        thread.start()
    own: list[ElectorThread] = []

    def stop_yourself() -> Candidacy:
        own[0].stop()
        return Candidacy.CONTEND

    own.append(ElectorThread(LeaderElector(ElectionConfig("default", "a"), lock), candidacy=stop_yourself))
    own[0].start()
    eventually(lambda: not own[0].is_alive)


def test_stop_while_another_thread_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends all the same, and stop() says so (RV15)."""
    thread = ElectorThread(LeaderElector(ElectionConfig("default", "a"), MemoryLock()))
    start, reached, go_on, stopped = threading.Thread.start, threading.Event(), threading.Event(), []

    def start_slowly(starting: threading.Thread) -> None:
        if starting.name == "celery-leader-default":
            reached.set()
            assert go_on.wait(10)
        start(starting)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    callers = [threading.Thread(target=thread.start), threading.Thread(target=lambda: stopped.append(thread.stop(10)))]
    callers[0].start()
    assert reached.wait(10)
    callers[1].start()
    callers[1].join(0.1)
    go_on.set()
    for caller in callers:
        caller.join(10)
    assert stopped == [True]
    assert not thread.is_alive


def test_start_twice_starts_one_thread(threads: Make) -> None:
    """It is the elector's only one."""
    thread = threads(MemoryLock())
    thread.start()
    assert len([t for t in threading.enumerate() if t.name == "celery-leader-default"]) == 1


@pytest.mark.parametrize("moment", ["get", "create", "update", "release"])
def test_stop_while_a_call_is_in_flight(threads: Make, moment: str) -> None:
    """stop(timeout) comes back in time; the call ends, the lease is given back, one term is told (RL4, RL5, N11)."""
    lock, heard = Harmful(), Heard()
    lock.gated = {moment.replace("release", "update")}
    if moment in ("get", "create"):
        lock.gate.clear()
        thread = threads(lock, observers=[heard])
    else:
        thread = threads(lock, observers=[heard])
        eventually(leads(thread))
        lock.gate.clear()
        (thread.wake if moment == "update" else thread.drain)()
    eventually(lambda: lock.stopped_in)
    assert not thread.stop(0.05)
    lock.gate.set()
    assert thread.stop(10)
    assert holder(lock) == ""
    assert thread.elector.join_observers(10)
    assert heard.calls == ["started", "leader: a", "stopped: released", "leader: nobody"]


def test_stop_by_an_observer(threads: Make) -> None:
    """Whoever hears of a term may end it: observers are told on threads of their own (N11)."""
    lock, ended = MemoryLock(), threading.Event()

    class Modest(Heard):
        def started(self, term: Term) -> None:
            super().started(term)
            if thread.stop(10):
                ended.set()

    modest = Modest()
    thread = ElectorThread(LeaderElector(ElectionConfig("default", "a"), lock, observers=[modest]))
    thread.start()
    assert ended.wait(10)
    assert thread.elector.join_observers(10)
    assert modest.calls == ["started", "leader: a", "stopped: released", "leader: nobody"]
    assert holder(lock) == ""


def test_hand_over_takes_no_poll(threads: Make) -> None:
    """A polite leader is followed in well under a second, though both would sleep for ten."""
    lock = MemoryLock()
    first = threads(lock, "a")
    eventually(leads(first))
    second = threads(lock, "b")
    eventually(lambda: second.elector.get_leader() == "a")
    begun = time.monotonic()
    first.stop(10)
    eventually(leads(second), 5, interval=0.002)
    assert time.monotonic() - begun < 1


def test_a_dead_leader_is_followed_after_its_lease(threads: Make) -> None:
    """Nobody says goodbye: the follower's own clock is enough."""
    lock = MemoryLock()
    dead = LeaderElector(ElectionConfig("default", "dead", **FAST), lock)
    assert dead.try_acquire_or_renew()
    follower = threads(lock, timing=FAST)
    eventually(leads(follower), 5, interval=0.002)
    assert not dead.is_leader()


def test_wake_makes_an_attempt_now(threads: Make) -> None:
    """For a leader and for a follower; the sleep would take ten seconds and more."""
    lock = Harmful()
    leader, follower = threads(lock, "a"), None
    eventually(leads(leader))
    before = lock.calls.count("update")
    leader.wake()
    eventually(lambda: lock.calls.count("update") > before, 5)
    follower = threads(lock, "b")
    eventually(lambda: follower.elector.get_leader() == "a")
    before = lock.calls.count("get")
    follower.wake()
    eventually(lambda: lock.calls.count("get") > before, 5)


def test_wakes_coalesce(threads: Make) -> None:
    """A storm of requests is one attempt or two, not a queue (RV11, RV13)."""
    lock = Harmful()
    thread = threads(lock)
    eventually(leads(thread))
    lock.gate.clear()
    thread.wake()
    eventually(lambda: lock.calls[-1] == "update")
    before = len(lock.calls)
    for _ in range(100):
        thread.wake()
    lock.gate.set()
    assert thread.stop(10)
    assert len(lock.calls) - before <= 2


def test_drain_renews_while_busy_and_releases_then(threads: Make) -> None:
    """Guarded work ends before the lease does (M8)."""
    lock, busy = Harmful(), threading.Event()
    busy.set()
    thread = threads(lock, timing=FAST, is_busy=busy.is_set)
    eventually(leads(thread))
    thread.drain()
    before = lock.calls.count("update")
    eventually(lambda: lock.calls.count("update") > before + 20)
    assert holder(lock) == "a"
    assert thread.elector.is_leader()
    busy.clear()
    eventually(lambda: holder(lock) == "", 5)
    assert not thread.elector.is_leader()


def test_drain_of_an_idle_leader_releases_at_once_and_takes_nothing_new(threads: Make) -> None:
    """Though nobody else wants it."""
    lock = Harmful()
    thread = threads(lock)
    eventually(leads(thread))
    thread.drain()
    eventually(lambda: holder(lock) == "", 5)
    before = lock.calls.count("get")
    thread.wake()
    eventually(lambda: lock.calls.count("get") > before)
    assert holder(lock) == ""
    assert thread.is_alive


def test_drain_keeps_to_release_on_cancel(threads: Make) -> None:
    """Without it the lease runs on until the thread is stopped, and out then."""
    lock = Harmful()
    elector = LeaderElector(ElectionConfig("default", "a", release_on_cancel=False, **FAST), lock)
    thread = ElectorThread(elector)
    thread.start()
    eventually(leads(thread))
    thread.drain()
    before = lock.calls.count("update")
    eventually(lambda: lock.calls.count("update") > before + 3)
    assert holder(lock) == "a"
    assert thread.stop(10)
    assert holder(lock) == "a"


def test_stop_while_busy_releases_all_the_same(threads: Make) -> None:
    """Who stops has waited as long as he wants to."""
    lock = MemoryLock()
    thread = threads(lock, is_busy=lambda: True)
    eventually(leads(thread))
    thread.drain()
    assert thread.stop(10)
    assert holder(lock) == ""


def test_candidacy_is_asked_before_each_attempt(threads: Make) -> None:
    """A worker that turns ineligible stops writing; it contends again when it may."""
    lock, mode = Harmful(), [Candidacy.OBSERVE]
    thread = threads(lock, timing=FAST, candidacy=lambda: mode[0])
    eventually(lambda: len(lock.calls) > 5)
    assert set(lock.calls) == {"get"}
    mode[0] = Candidacy.CONTEND
    eventually(leads(thread))
    mode[0] = Candidacy.HOLD
    eventually(lambda: holder(lock) == "", 5)
    mode[0] = Candidacy.CONTEND
    eventually(leads(thread))
