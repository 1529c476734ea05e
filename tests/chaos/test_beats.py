"""Beats of their own (`celery beat -S leader`): one of two sends; it is killed and stopped, and the other goes on."""

from __future__ import annotations

import math
import signal

import pytest

from tests.chaos.fleet import LONGEST_TAKEOVER, PERIODS, Fleet
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.mark.quick
@pytest.mark.parametrize("fleet", ["redis", "sqlite"], indirect=True)
def test_the_other_beat_goes_on(fleet: Fleet) -> None:
    """One beat at a time, no tick twice, none lost; a beat that is asked to stop hands over first."""
    fleet.election = "beat"
    fleet.conf["leader_beat"] = False
    fleet.start("worker")
    fleet.start_beat("one")
    fleet.start_beat("two")
    takeovers = []
    faults = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    for number in faults:
        leader = fleet.await_ticking_leader()
        terms = len(fleet.evidence().terms())
        begun = fleet.signal(leader, number)
        fleet.await_end(leader)
        takeovers.append(fleet.await_term(terms) - begun)
        fleet.start_beat(leader)
    fleet.await_ticking_leader()
    for name in ("one", "two"):
        fleet.signal(name, signal.SIGTERM)
    for name in ("one", "two"):
        fleet.await_end(name)
    claimed = fleet.claimed()
    eventually(lambda: not fleet.evidence().lost(claimed, PERIODS, math.inf), timeout=20)
    fleet.report(takeovers)
    evidence = fleet.evidence()
    assert evidence.overlaps() == []
    assert evidence.twice() == []
    assert evidence.redelivered() == []
    assert evidence.repeated() <= faults.count(signal.SIGKILL)  # between sending and confirming: sent again
    assert evidence.lost(claimed, PERIODS, LONGEST_TAKEOVER) == []
    assert evidence.unclaimed(claimed) == {}
    assert max(takeovers) < LONGEST_TAKEOVER
    assert fleet.alive() == ["worker"]
