"""The thread: it stops when told, at once, and for no other reason. Real threads, no fixed sleeps."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import Candidacy, ElectionConfig, ElectorThread, LeaderElector, StoredRecord
from celery_leader.exceptions import LockUnavailable
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_leader.election import ElectionRecord

#: Long enough that nothing in these tests happens by a poll or by expiry, where it should happen at once.
SLOW = {"lease_duration": 60.0, "renew_deadline": 40.0, "retry_period": 10.0}
FAST = {"lease_duration": 0.9, "renew_deadline": 0.6, "retry_period": 0.05}


class Harmful(MemoryLock):
    """A memory lock on which a test can play."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[str] = []

    def get(self) -> StoredRecord:
        self._suffer("get")
        return super().get()

    def create(self, record: ElectionRecord) -> StoredRecord:
        self._suffer("create")
        return super().create(record)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        self._suffer("update")
        return super().update(record, previous)

    def _suffer(self, name: str) -> None:
        self.calls.append(name)
        assert self.gate.wait(30)
        if self.error:
            raise self.error


class Uninterruptible:
    """A lock of an earlier contract, without interrupt()."""

    def __init__(self, lock: MemoryLock) -> None:
        self.get, self.create, self.update = lock.get, lock.create, lock.update
        self.waits: list[float] = []

    def wait(self, timeout: float) -> None:
        self.waits.append(timeout)
        time.sleep(timeout)

    def close(self) -> None:
        pass


@pytest.fixture
def threads() -> Iterator[Callable[..., ElectorThread]]:
    """A maker of started threads, all of which are stopped in the end; none is left over."""
    made: list[ElectorThread] = []

    def make(
        lock: Any, name: str = "a", *, observers: Any = (), timing: dict[str, float] = SLOW, **options: Any
    ) -> ElectorThread:
        elector = LeaderElector(ElectionConfig("default", name, **timing), lock, observers=observers)
        thread = ElectorThread(elector, **options)
        made.append(thread)
        thread.start()
        return thread

    yield make
    for thread in made:
        lock = thread.elector.lock
        if isinstance(lock, Harmful):
            lock.error = None
            lock.gate.set()
    for thread in made:
        assert thread.stop(10)
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("celery-leader")])


def holder(lock: MemoryLock) -> str:
    return MemoryLock.get(lock).record.holder_identity


def leads(thread: ElectorThread) -> Callable[[], bool]:
    return thread.elector.is_leader


Make = "Callable[..., ElectorThread]"


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


def test_start_twice_starts_one_thread(threads: Make) -> None:
    """It is the elector's only one."""
    thread = threads(MemoryLock())
    thread.start()
    assert len([t for t in threading.enumerate() if t.name == "celery-leader-default"]) == 1


def test_stop_during_a_slow_call(threads: Make) -> None:
    """stop(timeout) comes back in time; the thread ends with the call, and gives back what it won (RL4, RL5)."""
    lock = Harmful()
    lock.gate.clear()
    thread = threads(lock)
    eventually(lambda: lock.calls)
    assert not thread.stop(0.05)
    lock.gate.set()
    assert thread.stop(10)
    assert holder(lock) == ""


def test_stop_while_a_renewal_is_in_flight(threads: Make) -> None:
    """The renewal ends, then the lease is given back."""
    lock = Harmful()
    thread = threads(lock)
    eventually(leads(thread))
    lock.gate.clear()
    thread.wake()
    eventually(lambda: lock.calls[-1] == "update")
    assert not thread.stop(0)
    lock.gate.set()
    assert thread.stop(10)
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
    thread = threads(lock, timing=FAST)
    eventually(leads(thread))
    thread.drain()
    eventually(lambda: holder(lock) == "", 5)
    before = lock.calls.count("get")
    eventually(lambda: lock.calls.count("get") > before + 5)
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


@pytest.mark.parametrize(
    "error", [LockUnavailable("down"), OSError("reset"), RuntimeError("bug"), SystemExit(1)], ids=repr
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


def test_a_lock_that_cannot_be_interrupted_is_slept_on_in_slices(threads: Make) -> None:
    """stop() and wake() need not wait for its ten seconds."""
    memory = MemoryLock()
    leader = threads(memory, "a")
    eventually(leads(leader))
    lock = Uninterruptible(memory)
    follower = threads(lock, "b")
    eventually(lambda: len(lock.waits) > 1)
    begun = time.monotonic()
    assert follower.stop(10)
    assert time.monotonic() - begun < 2
    assert max(lock.waits) <= 0.1


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


def test_start_stop_stress() -> None:
    """Forty candidates come and go from eight threads over one lock: one leader at a time, nothing left (RV15)."""
    lock = MemoryLock()
    living: set[ElectorThread] = set()
    mutex = threading.Lock()
    overlaps: list[list[str]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            with mutex:
                candidates = list(living)
            first = [t for t in candidates if t.elector.is_leader()]
            if len(first) > 1:  # one may have handed over between two looks: ask in the other direction too
                still = [t for t in reversed(first) if t.elector.is_leader()]
                if len(still) > 1:
                    overlaps.append([t.elector.config.identity for t in still])

    def come_and_go(number: int) -> None:
        for turn in range(5):
            elector = LeaderElector(ElectionConfig("default", f"{number}/{turn}", **FAST), lock)
            thread = ElectorThread(elector)
            with mutex:
                living.add(thread)
            thread.start()
            thread.wake()
            eventually(lambda elector=elector: elector.get_leader(), interval=0.001)
            thread.drain()
            assert thread.stop(20)
            with mutex:
                living.discard(thread)

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=come_and_go, args=(number,)) for number in range(8)]
    for worker in [watcher, *workers]:
        worker.start()
    for worker in workers:
        worker.join(60)
    done.set()
    watcher.join(10)
    assert overlaps == []
    assert living == set()
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("celery-leader")])
