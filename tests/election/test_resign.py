"""Giving a lease back on request, and pausing: the candidate stays, and others go first (RV10 to RV12, RV16)."""

from __future__ import annotations

import threading
import time

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import Candidacy, ElectionConfig, ElectorThread, LeaderElector
from tests.election.running import FAST, SLOW, Harmful, Make, holder, leads
from tests.election.stage import Heard
from tests.waiting import eventually

LONGEST_PAUSE = FAST["retry_period"] * 2.2


def renewed(lock: Harmful, times: int) -> None:
    """Wait until a lease was renewed so often."""
    before = lock.calls.count("update")
    eventually(lambda: lock.calls.count("update") >= before + times)


def test_who_resigns_is_followed_and_contends_on(threads: Make) -> None:
    """Long before a lease could run out; and when the other has stopped, it leads again (RV10)."""
    lock = MemoryLock()
    first = threads(lock, "a", timing={**SLOW, "retry_period": 1.0})
    eventually(leads(first))
    second = threads(lock, "b")
    eventually(lambda: second.elector.get_leader() == "a")
    first.resign()
    eventually(leads(second), 5)
    eventually(lambda: first.elector.get_leader() == "b")
    second.stop(10)
    eventually(leads(first), 5)


def test_who_resigns_alone_leads_again(threads: Make) -> None:
    """In a new term, but not before all others would have looked."""
    thread = threads(MemoryLock(), timing=FAST)
    first = eventually(lambda: thread.elector.term)
    begun = time.monotonic()
    thread.resign()
    second = eventually(lambda: thread.elector.term not in (None, first) and thread.elector.term)
    assert second.fencing_token > first.fencing_token
    assert time.monotonic() - begun >= LONGEST_PAUSE


def test_without_notifications_others_go_first_too(threads: Make) -> None:
    """Who gives back is not the quickest to take: the other has looked meanwhile, though it heard of nothing."""

    class Silent(MemoryLock):
        def _tell(self) -> None:
            pass

    lock, heard = Silent(), Heard()
    timing = {"lease_duration": 6.0, "renew_deadline": 4.0, "retry_period": 0.5}
    leader = threads(lock, "a", timing=timing, observers=[heard])
    eventually(leads(leader))
    other = threads(lock, "b", timing={**timing, "jitter_factor": 0.1})
    eventually(lambda: other.elector.get_leader() == "a")
    leader.resign()
    eventually(leads(other), 5)
    eventually(lambda: leader.elector.get_leader() == "b")
    assert heard.calls.count("started") == 1


def test_five_requests_are_one(threads: Make) -> None:
    """One term ends, the next one lasts (RV11)."""
    lock, heard = Harmful(), Heard()
    thread = threads(lock, timing=FAST, observers=[heard])
    eventually(leads(thread))
    for _ in range(5):
        thread.resign()
    eventually(lambda: heard.calls.count("started") == 2)
    renewed(lock, 10)
    assert heard.calls.count("stopped: released") == 1


def test_a_request_during_a_renewal(threads: Make) -> None:
    """The renewal ends, then the term does (RV12)."""
    lock, heard = Harmful(), Heard()
    thread = threads(lock, observers=[heard])
    eventually(leads(thread))
    lock.gate.clear()
    thread.wake()
    eventually(lambda: lock.stopped_in == "update")
    thread.resign()
    lock.gate.set()
    eventually(lambda: "stopped: released" in heard.calls)
    assert holder(lock) == ""


def test_a_follower_has_nothing_to_resign_from(threads: Make) -> None:
    """Nor will it have because it was asked once, nor after it was stopped."""
    lock, heard = Harmful(), Heard()
    leader = threads(lock, "a", timing=FAST)
    eventually(leads(leader))
    follower = threads(lock, "b", timing=FAST, observers=[heard])
    eventually(lambda: follower.elector.get_leader() == "a")
    follower.resign()
    assert leader.stop(10)
    leader.resign()
    eventually(leads(follower))
    renewed(lock, 10)
    assert heard.calls.count("started") == 1
    assert heard.calls[-1] == "leader: b"


def test_a_request_ends_no_later_term(threads: Make) -> None:
    """Work delayed the end of the term, which then expired: the next is another one (RV16)."""
    lock, heard, busy = Harmful(), Heard(), threading.Event()
    busy.set()
    thread = threads(lock, timing=FAST, observers=[heard], is_busy=busy.is_set)
    eventually(leads(thread))
    thread.resign()
    renewed(lock, 3)
    lock.error = OSError("gone")
    eventually(lambda: not thread.elector.is_leader())
    busy.clear()
    lock.error = None
    eventually(lambda: heard.calls.count("started") == 2)
    renewed(lock, 10)
    assert thread.elector.is_leader()
    assert heard.calls.count("started") == 2
    assert "stopped: released" not in heard.calls


def test_guarded_work_ends_before_the_term(threads: Make) -> None:
    """It renews while work runs, and gives back as soon as none does."""
    lock, busy = Harmful(), threading.Event()
    busy.set()
    thread = threads(lock, timing=FAST, is_busy=busy.is_set)
    first = eventually(lambda: thread.elector.term)
    thread.resign()
    renewed(lock, 20)
    assert thread.elector.term == first
    busy.clear()
    eventually(lambda: thread.elector.term != first, 5, interval=0.001)


def test_a_request_counts_without_release_on_cancel(threads: Make) -> None:
    """That is about stopping; this was asked for."""
    lock = MemoryLock()
    thread = ElectorThread(LeaderElector(ElectionConfig("default", "a", release_on_cancel=False, **SLOW), lock))
    thread.resign()
    thread.start()
    eventually(leads(thread))
    thread.resign()
    eventually(lambda: holder(lock) == "", 5)
    assert thread.stop(10)


def test_pause_and_resume(threads: Make) -> None:
    """Who may only hold gives back and watches; who may contend again is a candidate as any other."""
    lock, mode = MemoryLock(), {"a": Candidacy.CONTEND, "b": Candidacy.CONTEND}
    first = threads(lock, "a", timing=FAST, candidacy=lambda: mode["a"])
    eventually(leads(first))
    second = threads(lock, "b", timing=FAST, candidacy=lambda: mode["b"])
    mode["a"] = Candidacy.HOLD
    eventually(leads(second))
    eventually(lambda: first.elector.get_leader() == "b")
    mode["b"] = Candidacy.HOLD
    eventually(lambda: holder(lock) == "")
    eventually(lambda: first.elector.get_leader() == second.elector.get_leader() == "")
    mode["a"] = Candidacy.CONTEND
    eventually(leads(first))
