"""The leading worker of three is killed, stopped and paused, five times each, on each kind of store."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.chaos.fleet import LEASE, LONGEST_TAKEOVER, PERIODS, Fleet, Stream
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

TIMES = 5
#: How long a leader is paused at most, in seconds.
PAUSE = 3 * LEASE


def kill(fleet: Fleet, leader: str) -> float:
    """SIGKILL the main process; its children go with it."""
    with fleet.nothing_on_the_way():
        fleet.dead_pids |= fleet.children(leader)
        begun = fleet.signal(leader, signal.SIGKILL)
        fleet.await_end(leader)
    fleet.start(leader)
    return begun


def terminate(fleet: Fleet, leader: str) -> float:
    """Stop it warmly; another takes its place."""
    return fleet.signal(leader, signal.SIGTERM)


def quit_(fleet: Fleet, leader: str) -> float:
    """Stop it coldly: running tasks are cut off."""
    fleet.dead_pids |= fleet.children(leader)
    return fleet.signal(leader, signal.SIGQUIT)


def pause(fleet: Fleet, leader: str) -> float:
    """Stop all its processes until another leads and ticks, or nobody can; then it goes on.

    A process that is paused in the middle of a write keeps an SQLite file locked for all others, however long.
    """
    terms = len(fleet.evidence().terms())
    begun = fleet.signal_all(leader, signal.SIGSTOP)
    with suppress(AssertionError):
        fleet.await_term(terms, PAUSE)
        fleet.await_ticking_leader()
    fleet.signal_all(leader, signal.SIGCONT)
    return begun


@pytest.mark.quick
@pytest.mark.parametrize("fault", [kill, terminate, quit_, pause])
@pytest.mark.parametrize("fleet", ["redis", "sqlite", "postgres"], indirect=True)
def test_the_next_leader_takes_over(fleet: Fleet, fault: Callable[[Fleet, str], float]) -> None:
    """One leader at a time, no tick twice, none lost, each guarded task once, and all workers live."""
    if fault is pause:  # nobody dies, and redelivery of a paused worker's messages would only blur the count
        fleet.visibility = 600
    fleet.start_all("a", "b", "c")
    takeovers = []
    with Stream(fleet):
        for _ in range(TIMES):
            leader = fleet.await_ticking_leader()
            eventually(lambda: len(fleet.alive()) == 3, timeout=30)
            terms = len(fleet.evidence().terms())
            begun = fault(fleet, leader)
            takeovers.append(fleet.await_term(terms) - begun)
            if fault in (terminate, quit_):
                fleet.await_end(leader)
                fleet.start(leader)
    fleet.await_ticking_leader()
    assert sorted(fleet.alive()) == ["a", "b", "c"]
    claimed = fleet.finish()
    fleet.report(takeovers)
    longest = LONGEST_TAKEOVER + (PAUSE if fault is pause and "sqlite" in str(fleet.database) else 0)
    evidence = fleet.evidence()
    assert evidence.overlaps() == []
    assert evidence.twice() == []
    assert evidence.lost(claimed, PERIODS, longest) == []
    assert evidence.unclaimed(claimed) == {}
    assert evidence.guarded_wrong(fleet.sent, fleet.dead_pids) == []
    assert max(takeovers) < longest
    if fault not in (kill, quit_):  # they cut tasks off before they are acknowledged, and brokers redeliver those
        assert evidence.redelivered() == []
    # A leader paused between sending and confirming has its tick resent. A warm stop leaves nothing open.
    if fault in (terminate, pause):
        assert evidence.repeated() <= (TIMES if fault is pause else 0)
