"""What a candidate believes, between its attempts and when the world is odd."""

from __future__ import annotations

import os
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import Candidacy, ElectionConfig, LeaderElector, StoredRecord
from celery_leader.exceptions import LeaseExpired
from celery_leader.testing import FakeClock
from tests.election.stage import (
    BEGUN,
    CONFLICT,
    DEADLINE,
    DOWN,
    KEPT,
    LEASE,
    LOST,
    ME,
    NONE,
    OK,
    RETRY,
    Stage,
    create,
    get,
    held,
    slow,
    update,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_leader.election import Trust


@pytest.fixture
def stage() -> Stage:
    """A leader."""
    stage = Stage()
    assert stage.attempt(get(NONE), create(OK))
    return stage


# -- trust -------------------------------------------------------------------------------------------------------


def test_trust_ends_by_itself(stage: Stage) -> None:
    """No attempt, no thread, no event is needed: the clock is enough (M5)."""
    stage.clock.advance(DEADLINE - 0.01)
    assert stage.elector.is_leader()
    assert stage.elector.term == stage.heard.terms[0]
    stage.clock.advance(0.01)
    assert not stage.elector.is_leader()
    assert stage.elector.term is None
    assert stage.elector.trust is None


@pytest.mark.parametrize("method", ["create", "update"])
def test_trust_counts_from_the_start_of_the_attempt(method: str) -> None:
    """A slow answer can't stretch it: followers count from the write (M6)."""
    stage = Stage()
    if method == "create":
        assert stage.attempt(get(NONE), create(slow(5)))
    else:
        assert stage.attempt(get(NONE), create(OK))
        assert stage.attempt(update(slow(5)), wait=2)
    stage.clock.advance(DEADLINE - 5)
    assert not stage.elector.is_leader()


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_trust_and_leases_do_not_care_for_the_wall_clock(step: float) -> None:
    """NTP, an administrator, daylight saving: shown, never decided by (M14)."""
    stage = Stage()
    stage.attempt(get(NONE), create(OK))
    stage.clock.step_wall(step)
    assert stage.elector.is_leader()
    assert stage.attempt(update(OK), wait=2)
    other = Stage()
    other.attempt(get(held()))
    other.clock.step_wall(step)
    assert not other.attempt(get(held()), wait=LEASE - 0.1)
    assert other.attempt(get(held()), update(OK), wait=0.1)


def test_tokens_grow_though_the_wall_clock_goes_back(stage: Stage) -> None:
    """Also over a release, and over a loss of data that this candidate saw (M11)."""
    tokens = [stage.written.fencing_token]
    for calls in ([get(KEPT), update(OK)], [get(NONE), create(OK)]):
        stage.clock.step_wall(-86400)
        stage.release(update(OK))
        assert stage.attempt(*calls)
        tokens.append(stage.written.fencing_token)
    assert tokens == sorted(set(tokens))


def test_a_token_that_was_sent_is_never_sent_for_another_term() -> None:
    """Its write may still be on the way."""
    stage = Stage()
    stage.attempt(get(NONE), create(LOST), get(NONE))
    sent = stage.written.fencing_token
    stage.attempt(get(NONE), create(OK))
    assert stage.written.fencing_token > sent


def test_a_standing_wall_clock_does_not_make_two_renewals_one() -> None:
    """An earlier renewal, found at the read-back of a later one, prolongs nothing."""
    stage = Stage()
    stage.attempt(get(NONE), create(OK))
    stage.clock.step_wall(-2)
    assert not stage.attempt(update(LOST), get(DOWN), wait=2)
    earlier = StoredRecord(stage.written, 2)
    stage.clock.step_wall(-2)
    assert not stage.attempt(update(DOWN), get(earlier), wait=2)
    stage.clock.advance(DEADLINE - 4)
    assert not stage.elector.is_leader()


def test_what_is_published_is_what_is_trusted() -> None:
    """Pool children see each change, and the end before the store does."""
    published: list[Trust | None] = []
    clock, lock = FakeClock(), MemoryLock()
    elector = LeaderElector(ElectionConfig("default", ME), lock, clock=clock, publish=published.append)
    elector.try_acquire_or_renew()
    clock.advance(2)
    elector.try_acquire_or_renew()
    elector.release()
    elector.release()
    assert [trust and trust.renewed_at for trust in published] == [1000.0, 1002.0, None]
    assert [trust and trust.until for trust in published] == [1010.0, 1012.0, None]


# -- identities and forks ----------------------------------------------------------------------------------------


def test_equal_identities_do_not_share_a_term() -> None:
    """Somebody configured one name twice: the token tells whose term it is (N5)."""
    clock, lock = FakeClock(), MemoryLock()
    one, other = (LeaderElector(ElectionConfig("default", "same"), lock, clock=clock) for _ in range(2))
    for _ in range(50):
        one.try_acquire_or_renew()
        clock.advance(0.5)
        other.try_acquire_or_renew()
        assert one.is_leader()
        assert not other.is_leader()
        clock.advance(1.5)


def in_child(question: Callable[[], bool]) -> bool:
    """Ask in a forked child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if question() else 1)
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status < 2, "the child failed"
    return status == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "question",
    [
        LeaderElector.is_leader,
        LeaderElector.release,
        LeaderElector.try_acquire_or_renew,
        lambda elector: elector.step() < 0 or elector.is_leader(),
        lambda elector: elector.term is not None or elector.trust is not None,
    ],
    ids=["is_leader", "release", "attempt", "step", "term"],
)
def test_a_forked_child_is_no_candidate(question: Callable[[LeaderElector], bool]) -> None:
    """It believes nothing, renews nothing, and gives nothing back that is its parent's (N9)."""
    elector = LeaderElector(ElectionConfig("default", ME), MemoryLock(), clock=FakeClock())
    assert elector.try_acquire_or_renew()
    assert not in_child(lambda: question(elector))
    assert elector.is_leader()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_healthy() -> None:
    """It holds no lease that could be late."""
    clock = FakeClock()
    elector = LeaderElector(ElectionConfig("default", ME), MemoryLock(), clock=clock)
    elector.try_acquire_or_renew()
    clock.advance(60)
    assert in_child(lambda: elector.check() is None)


# -- health ------------------------------------------------------------------------------------------------------


LEADING, FOLLOWING = [get(NONE), create(OK)], [get(held())]


@pytest.mark.parametrize(
    ("role", "age", "healthy"),
    [
        pytest.param([get(DOWN)], 3600, True, id="H1 nothing observed yet"),
        pytest.param(LEADING, 3600, False, id="H2 mine, renewed an hour ago"),
        pytest.param(FOLLOWING, 3600, True, id="H3 another's, an hour old"),
        pytest.param(LEADING, 0, True, id="H4 mine, just renewed"),
        pytest.param(LEADING, 61, True, id="H5 mine, within the tolerance"),
        pytest.param(LEADING, 80.1, False, id="H6 mine, beyond it"),
    ],
)
def test_health(role: list, age: float, healthy: bool) -> None:
    """A lease of a minute, a tolerance of 20 s: only a leader that is stuck is not healthy."""
    stage = Stage(lease_duration=60, renew_deadline=40)
    stage.attempt(*role)
    stage.clock.advance(age)
    if healthy:
        stage.elector.check(20)
    else:
        with pytest.raises(LeaseExpired):
            stage.elector.check(20)


def test_ill_health_says_what_to_do_and_ends_with_the_next_attempt() -> None:
    """Which election, how late, and the cure; who attempts again is not stuck."""
    stage = Stage(lease_duration=60, renew_deadline=40)
    stage.attempt(*LEADING)
    stage.clock.advance(61)
    with pytest.raises(LeaseExpired, match=r"'default'.*not renewed it for 61\.0 s; it lasts 60 s.*restart"):
        stage.elector.check()
    stage.attempt(get(held()))
    stage.elector.check()


def test_questions_from_other_threads() -> None:
    """Health checks and is_leader while another thread renews: one snapshot each, no error (RC1)."""
    clock, lock = FakeClock(), MemoryLock()
    elector = LeaderElector(ElectionConfig("default", ME), lock, clock=clock)
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                elector.check(3600), elector.is_leader(), elector.get_leader(), elector.term
        except BaseException as error:  # noqa: BLE001  # the test shows it
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(500):
        elector.try_acquire_or_renew()
        clock.advance(11 if turn % 50 == 0 else 1)
        if turn % 7 == 0:
            elector.release()
    done.set()
    for thread in threads:
        thread.join(10)
    assert errors == []


# -- step and candidacy ------------------------------------------------------------------------------------------


def test_a_leader_comes_back_after_a_retry_period(stage: Stage) -> None:
    """Also after a failed renewal, but not later than its trust ends (RV2)."""
    stage.expect(update(OK))
    assert stage.elector.step() == RETRY
    stage.expect(update(DOWN), get(DOWN))
    assert stage.elector.step() == RETRY
    stage.clock.advance(DEADLINE - 0.5)
    stage.expect(update(DOWN), get(DOWN))
    assert stage.elector.step() == pytest.approx(0.5)


def test_a_follower_comes_back_after_a_jittered_retry_period() -> None:
    """From 1 to 2.2 times, never longer, however often it was refused (M13)."""
    stage = Stage()
    delays = []
    for number in range(300):
        stage.expect(get(held(version=number)))
        delays.append(stage.elector.step())
    assert RETRY <= min(delays) < 1.05 * RETRY
    assert 2.15 * RETRY < max(delays) <= 2.2 * RETRY
    stage.expect(get(DOWN))
    assert stage.elector.step() <= 2.2 * RETRY


def test_a_follower_does_not_sleep_past_the_lease_of_a_dead_leader() -> None:
    """It looks when it may take over; while the leader lives, it never comes to that."""
    stage = Stage()
    stage.expect(get(held()))
    stage.elector.step()
    stage.clock.advance(LEASE - 0.5)
    stage.expect(get(held()))
    assert 0.5 <= stage.elector.step() <= 0.5 + 0.05 * RETRY
    stage.clock.advance(0.5)
    stage.elector.candidacy = Candidacy.HOLD
    stage.expect(get(held()))
    assert stage.elector.step() >= RETRY


def test_jitter_comes_from_the_source_that_was_given() -> None:
    """So that a simulation can be replayed."""
    delays = [
        LeaderElector(
            ElectionConfig("default", ME), Stage().lock, clock=FakeClock(), random_source=random.Random(7)
        )._random.random()
        for _ in range(2)
    ]
    assert delays[0] == delays[1]


def test_hold_keeps_and_takes_nothing_new(stage: Stage) -> None:
    """A worker that shuts down renews while work runs."""
    stage.elector.candidacy = Candidacy.HOLD
    assert stage.attempt(update(OK), wait=2)
    assert stage.attempt(update(CONFLICT), get(NONE), create(OK), wait=2)
    assert not stage.attempt(get(KEPT), wait=DEADLINE)
    assert not stage.attempt(get(KEPT), wait=LEASE)
    assert not stage.attempt(get(NONE), wait=LEASE)
    assert stage.told() == [*BEGUN, "stopped: expired"]


def test_observe_writes_nothing(stage: Stage) -> None:
    """A leader that turns ineligible leads to the end of its trust (N16)."""
    stage.elector.candidacy = Candidacy.OBSERVE
    assert not stage.attempt(get(KEPT), wait=2)
    assert stage.elector.is_leader()
    assert not stage.attempt(get(KEPT), wait=DEADLINE)
    assert not stage.attempt(get(NONE), wait=LEASE)
    assert stage.told() == [*BEGUN, "stopped: expired"]


def test_observing_tells_who_leads() -> None:
    """That is what it is for."""
    stage = Stage()
    stage.elector.candidacy = Candidacy.OBSERVE
    assert not stage.attempt(get(held()))
    assert stage.elector.get_leader() == "bing/2/b"
    assert stage.told() == ["leader: bing"]


def test_a_candidate_contends_for_ever() -> None:
    """Losing, expiring and errors are no end (M12)."""
    stage = Stage()
    for turn in range(20):
        other = held(version=turn + 1000, token=2**50 + turn)
        assert not stage.attempt(get(other), wait=1)
        assert stage.attempt(get(other), update(OK), wait=LEASE)
        assert not stage.attempt(update(DOWN), get(DOWN), wait=1)
        stage.clock.advance(DEADLINE)
    assert stage.told().count("started") == 20
    assert stage.told().count("stopped: expired") == 19


def test_a_renewal_changes_nothing_but_the_renew_time(stage: Stage) -> None:
    """Token, transitions and the term's beginning stay; the lease is what the config says."""
    before = stage.written
    stage.attempt(update(OK), wait=2)
    assert stage.written == replace(before, renew_time=stage.clock.utcnow())
    assert before.renew_time != stage.written.renew_time
