"""Giving a lease back: at once, once, and only what is one's own (RL after client-go)."""

from __future__ import annotations

import pytest

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import Candidacy, ElectionConfig, LeaderElector
from celery_leader.exceptions import RecordNotFound
from celery_leader.testing import FakeClock
from tests.election.stage import (
    BEGUN,
    BING,
    CONFLICT,
    DEADLINE,
    DOWN,
    GONE,
    KEPT,
    LATE,
    LOST,
    ME,
    NONE,
    OK,
    Stage,
    create,
    get,
    held,
    update,
)

RELEASED = [*BEGUN, "stopped: released"]


@pytest.fixture
def stage() -> Stage:
    """A leader."""
    stage = Stage()
    assert stage.attempt(get(NONE), create(OK))
    return stage


def test_release_blanks_the_holder_and_keeps_the_token(stage: Stage) -> None:
    """Nobody leads, for a second at most; the next token has something to exceed (RL1)."""
    token = stage.written.fencing_token
    assert stage.release(update(OK))
    assert stage.written.holder_identity == ""
    assert stage.written.lease_duration == 1
    assert stage.written.fencing_token == token
    assert stage.written.leader_transitions == 0
    assert not stage.elector.is_leader()
    assert stage.told() == [*RELEASED, "leader: nobody"]


def test_trust_ends_before_the_lease_is_given_back() -> None:
    """Whoever hears of a vacancy must not meet the old leader at work."""
    stage = Stage()
    seen: list[tuple[str, bool]] = []
    lock = MemoryLock()
    elector = LeaderElector(
        stage.config,
        lock,
        clock=stage.clock,
        publish=lambda trust: seen.append((lock.get().record.holder_identity, trust is not None)),
    )
    assert elector.try_acquire_or_renew()
    assert elector.release()
    assert seen == [(ME, True), (ME, False)]


@pytest.mark.parametrize(
    ("calls", "released", "told"),
    [
        pytest.param([update(CONFLICT), get(KEPT), update(OK)], True, [*RELEASED, "leader: nobody"], id="RL3 conflict"),
        pytest.param([update(CONFLICT), get(held())], False, [*RELEASED, "leader: bing"], id="another leads"),
        pytest.param([update(CONFLICT), get(held(ME, token=2**50))], False, RELEASED, id="my name, another term"),
        pytest.param([update(CONFLICT), get(NONE)], False, RELEASED, id="vanished"),
        pytest.param([update(CONFLICT), get(KEPT), update(CONFLICT)], False, RELEASED, id="two conflicts: bounded"),
        pytest.param([update(LOST), get(KEPT)], True, [*RELEASED, "leader: nobody"], id="reply lost"),
        pytest.param([update(DOWN), get(KEPT), get(KEPT), update(OK)], True, [*RELEASED, "leader: nobody"], id="error"),
        pytest.param([update(DOWN), get(DOWN), get(DOWN)], False, RELEASED, id="store down: bounded"),
    ],
)
def test_release_when_things_go_wrong(stage: Stage, calls: list, released: bool, told: list[str]) -> None:
    """One more look, one more try; the term ends in any case, and is told once."""
    assert stage.release(*calls) == released
    assert not stage.elector.is_leader()
    assert stage.told() == told


def test_release_by_a_lock_that_breaks_its_contract(stage: Stage) -> None:
    """The error is the caller's to see, and the end of the term is told all the same."""
    with pytest.raises(OSError, match="broken"):
        stage.release(update(OSError("broken")))
    assert not stage.elector.is_leader()
    assert stage.told() == RELEASED


def test_no_release_by_a_follower() -> None:
    """It has nothing to give."""
    stage = Stage()
    assert not stage.release()
    stage.attempt(get(held()))
    assert not stage.release()
    assert stage.told() == ["leader: bing"]


def test_no_release_after_the_trust_is_over(stage: Stage) -> None:
    """What is over may be another's by now."""
    stage.clock.advance(DEADLINE)
    assert not stage.release()
    assert stage.told() == LATE


def test_no_release_after_a_loss(stage: Stage) -> None:
    """Nor of what another won since."""
    stage.attempt(update(CONFLICT), get(held()))
    assert not stage.release()
    assert stage.told() == GONE


def test_a_release_is_made_once(stage: Stage) -> None:
    """The second finds nothing to do."""
    assert stage.release(update(OK))
    assert not stage.release()


def test_a_lease_that_was_won_without_knowing_is_given_back() -> None:
    """A creation without an answer may have happened: nobody should have to wait a lease for a process that left."""
    stage = Stage()
    assert not stage.attempt(get(NONE), create(LOST), get(DOWN))
    assert stage.release(get(KEPT), update(OK))
    assert stage.written.holder_identity == ""
    assert stage.told() == []
    stage = Stage()
    assert not stage.attempt(get(NONE), create(DOWN), get(DOWN))
    assert not stage.release(get(NONE))


def test_after_a_release_one_contends_again(stage: Stage) -> None:
    """A step-down is no farewell; the new term has a greater token (RV10)."""
    token = stage.written.fencing_token
    stage.release(update(OK))
    assert stage.attempt(get(KEPT), update(OK))
    assert stage.written.fencing_token > token
    assert stage.written.leader_transitions == 1
    assert stage.told() == [*RELEASED, "leader: nobody", "started", "leader: me"]


def test_two_candidates_hand_over() -> None:
    """Second is denied, first releases, second leads, releases, and nobody does (RV1, RV3)."""
    clock, lock = FakeClock(), MemoryLock()
    first, second = (LeaderElector(ElectionConfig("default", name), lock, clock=clock) for name in (ME, BING))
    assert first.try_acquire_or_renew()
    assert not second.try_acquire_or_renew()
    assert first.release()
    assert second.try_acquire_or_renew()
    assert not first.try_acquire_or_renew()
    assert first.get_leader() == BING
    assert second.release()
    assert lock.get().record.holder_identity == ""


def test_ten_times_lock_refuse_unlock() -> None:
    """Without a pause in between, as locks are used (D4, D5)."""
    clock, lock = FakeClock(), MemoryLock()
    one, other = (LeaderElector(ElectionConfig("default", name), lock, clock=clock) for name in (ME, BING))
    for _ in range(10):
        assert one.try_acquire_or_renew()
        assert not other.try_acquire_or_renew()
        assert one.release()
        assert not one.release()


def test_two_elections_are_independent() -> None:
    """One process may lead both (RV4)."""
    clock = FakeClock()
    one, other = (LeaderElector(ElectionConfig(name, ME), MemoryLock(name), clock=clock) for name in ("a", "b"))
    assert one.try_acquire_or_renew()
    assert other.try_acquire_or_renew()
    assert one.release()
    assert other.is_leader()


def test_an_observing_candidate_leaves_no_trace() -> None:
    """It writes nothing, whatever it sees."""
    lock = MemoryLock()
    elector = LeaderElector(ElectionConfig("default", ME), lock, clock=FakeClock())
    elector.candidacy = Candidacy.OBSERVE
    assert not elector.try_acquire_or_renew()
    with pytest.raises(RecordNotFound):
        lock.get()
