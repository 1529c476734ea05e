"""The thread goes on among locks that fail or hang, callbacks that fail or block, notifications that mislead."""

from __future__ import annotations

import threading
import time
from typing import Any
from unittest import mock

import pytest

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import Candidacy, ElectionConfig, LeaderElector, SystemClock
from celery_leader.election.thread import join
from celery_leader.exceptions import StoreUnavailable
from celery_leader.testing import sample_record
from tests.election.running import FAST, SLOW, Harmful, Make, holder, leads
from tests.waiting import eventually


@pytest.mark.parametrize(
    "error", [StoreUnavailable("down"), OSError("reset"), RuntimeError("bug"), SystemExit(1)], ids=repr
)
def test_no_error_of_the_lock_ends_the_thread(threads: Make, error: BaseException) -> None:
    """It contends until it is stopped: before it led, while it leads, and after (M12)."""
    lock = Harmful()
    lock.error = error
    thread = threads(lock, timing=FAST)
    eventually(lambda: len(lock.calls) > 3)
    lock.error = None
    eventually(leads(thread))
    lock.error = error
    eventually(lambda: not thread.elector.is_leader())
    lock.error = None
    eventually(leads(thread))
    assert thread.is_alive


def test_stop_on_a_broken_lock_ends_and_closes(threads: Make) -> None:
    """What can't be given back runs out; the connection is closed all the same."""
    closed = threading.Event()

    class Broken(Harmful):
        def close(self) -> None:
            closed.set()

    lock = Broken()
    thread = threads(lock)
    eventually(leads(thread))
    lock.error = OSError("broken")
    assert thread.stop(10)
    assert closed.is_set()


@pytest.mark.parametrize("what", ["candidacy", "is_busy"])
def test_a_failing_question_gives_no_lease_away_and_ends_nothing(threads: Make, what: str) -> None:
    """A bug in what is asked of the worker is logged; stop() works."""
    lock, fails = MemoryLock(), threading.Event()

    def answer() -> Any:
        if fails.is_set():
            raise RuntimeError("bug")
        return Candidacy.CONTEND if what == "candidacy" else False

    thread = threads(lock, timing=FAST, **{what: answer})
    eventually(leads(thread))
    fails.set()
    thread.wake()
    assert thread.is_alive
    fails.clear()
    eventually(leads(thread))
    assert thread.stop(10)
    assert holder(lock) == ""


def test_observers_that_block_or_raise_hold_up_nothing(threads: Make) -> None:
    """Renewals, hand-over and stop go on (N11, N12)."""
    gate = threading.Event()

    class Bad:
        def started(self, term: Any) -> None:
            raise RuntimeError("bug")

        def stopped(self, term: Any, reason: Any) -> None:
            raise SystemExit(1)

        def new_leader(self, identity: str) -> None:
            gate.wait(30)

    lock = Harmful()
    thread = threads(lock, timing=FAST, observers=[Bad()])
    eventually(leads(thread))
    before = lock.calls.count("update")
    eventually(lambda: lock.calls.count("update") > before + 20)
    assert thread.stop(10)
    assert holder(lock) == ""
    gate.set()
    assert thread.elector.join_observers(10)


def test_a_wait_that_never_waits_is_no_storm(threads: Make) -> None:
    """A store that ends each wait at once (it is down, say) is not asked forty times a second."""

    class Restless(Harmful):
        def wait(self, timeout: float) -> None:
            self.calls.append("wait")

    lock = Restless()
    leader = LeaderElector(ElectionConfig("default", "leader", **SLOW), lock)
    assert leader.try_acquire_or_renew()
    lock.calls.clear()
    threads(lock, "b")
    begun = time.monotonic()
    eventually(lambda: lock.calls.count("get") >= 5)
    eventually(lambda: time.monotonic() - begun > 1.5)
    assert lock.calls.count("get") < 20


def test_neither_a_bug_nor_a_wake_is_a_storm(threads: Make) -> None:
    """An attempt that fails unexpectedly is followed after a retry period, and a wake by one attempt."""
    broken, sound = Harmful(), Harmful()
    broken.error = RuntimeError("bug")
    leader = threads(sound)
    eventually(leads(leader))
    leader.wake()
    eventually(lambda: sound.calls == ["get", "create", "update"])
    threads(broken, "b")
    eventually(lambda: broken.calls)
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > 0.3)
    assert (broken.calls, sound.calls) == (["get"], ["get", "create", "update"])


@pytest.mark.parametrize("moment", ["get", "create", "update", "release"])
def test_nobody_waits_for_a_store_that_hangs(threads: Make, moment: str) -> None:
    """Each question and each request is answered while a call is under way: no mutex is held across I/O."""
    lock = Harmful()
    lock.gated = {moment.replace("release", "update")}
    if moment in ("get", "create"):
        lock.gate.clear()
        thread = threads(lock)
    else:
        thread = threads(lock)
        eventually(leads(thread))
        lock.gate.clear()
        (thread.wake if moment == "update" else thread.resign)()
    eventually(lambda: lock.stopped_in)
    elector, answered = thread.elector, []
    requests = [
        elector.is_leader, elector.check, elector.get_leader, lambda: elector.term, lambda: elector.trust,
        lambda: thread.is_alive, lambda: elector.join_observers(0),
        thread.start, thread.wake, thread.resign, thread.drain, lambda: thread.stop(0),
    ]  # fmt: skip

    def ask_all() -> None:
        for request in requests:
            begun = time.monotonic()
            request()
            answered.append(time.monotonic() - begun)

    asking = threading.Thread(target=ask_all, daemon=True)
    asking.start()
    asking.join(10)
    assert len(answered) == len(requests), "this one waits"
    assert max(answered) < 5
    assert lock.stopped_in, "the call was under way all the time"


def test_a_storm_of_notifications_is_two_looks(threads: Make) -> None:
    """However often the holder changes while a follower looks, it looks once more, then at its next poll (RV13)."""
    lock = Harmful()
    stored = lock.create(sample_record(holder_identity="other", lease_duration=60))
    lock.gated = {"get"}
    lock.gate.clear()
    follower = threads(lock)
    eventually(lambda: lock.stopped_in)
    for identity in ["b", "c", "d", "e"] * 10:
        stored = lock.update(sample_record(holder_identity=identity, lease_duration=60), stored)
    lock.gate.set()
    eventually(lambda: lock.calls.count("get") >= 2)
    assert not any(lock.wait(0.02) or lock.calls.count("get") > 2 for _ in range(15))
    assert follower.elector.get_leader() == "e"


def test_notifications_are_only_hints(threads: Make) -> None:
    """One that comes before the change can be seen costs a look, one that never comes a poll (N14)."""

    class Misleading(Harmful):
        tells = True

        def _tell(self) -> None:
            if self.tells:
                super()._tell()

    lock = Misleading()
    stored = lock.create(sample_record(holder_identity="other", lease_duration=60))
    follower = threads(lock, timing=FAST)
    eventually(lambda: lock.calls.count("get") == 1)
    lock.interrupt()
    eventually(lambda: lock.calls.count("get") >= 2)
    lock.tells = False
    lock.update(stored.record.released(SystemClock().utcnow()), stored)
    eventually(leads(follower), 5)


def test_a_wait_that_is_over_is_no_error_of_eventlet_s() -> None:
    """Its threads raise one, which is no Exception and would end a worker's shutdown; any other is one."""
    over = type("Timeout", (BaseException,), {"__module__": "eventlet.timeout"})
    join(mock.Mock(spec=threading.Thread, **{"join.side_effect": over}), 0.1)
    with pytest.raises(SystemExit):
        join(mock.Mock(spec=threading.Thread, **{"join.side_effect": SystemExit}), 0.1)
