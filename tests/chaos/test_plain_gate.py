"""The same fleet and the same checks, with a beat that has no ledger: they find its faults."""

from __future__ import annotations

import random
import time

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.members import TAKEOVER, Members
from tests.chaos.messages import SLACK, Fault
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

#: Seconds from the start to the minute that the beat will lose; the other part needs a third of them.
UNTIL_MINUTE = 26.0


def test_a_gate_without_a_ledger_sends_twice_and_loses(fleet: Fleet) -> None:
    """It resends its predecessor's ticks, and forgets the ticks that the broker did not take."""
    fleet.conf["leader_beat"] = False
    minute = time.time() + UNTIL_MINUTE
    fleet.utc_offset = -minute % 60
    gate = ("-B", "--scheduler", "plain_gate:PlainGate", "--loglevel", "INFO")
    members = Members(fleet, random.Random(0), options=(*Members.options, *gate))
    members.begin()
    since = time.time()
    kill_after(members, "seven")
    while minute < time.time() + 1:
        minute += 60
    time.sleep(minute - 1 - time.time())
    lose(members, minute)
    account = members.end(since, until=time.time())
    twice, lost = account.twice(), account.lost({})
    print("\nchaos: a plain gate:", *twice, *lost, sep="\n  ")  # noqa: T201  # the figures belong into CI's log
    assert fleet.evidence().overlaps() == [], "the gate itself holds"
    assert [wrong for wrong in twice if wrong.startswith("seven: ")]
    assert [wrong for wrong in lost if wrong.startswith("minute: ")]


def kill_after(members: Members, name: str) -> None:
    """Kill the leader just after it sent the entry *name*; wait until the next one sent it, too."""
    fleet = members.fleet

    def sent() -> int:
        return len([line for line in fleet.evidence().of("sent") if line["entry"] == name])

    # Standbys count from their start: their first period must be over when they take over.
    ready = time.time()
    eventually(lambda: time.time() > ready + 7.0 - TAKEOVER, what="the first period is nearly over")
    before = sent()
    eventually(lambda: sent() > before, what=f"{name} is sent")
    members.kill("kill leader", fleet.await_leader(), TAKEOVER)
    eventually(lambda: sent() > before + 1, timeout=30, what=f"{name} is sent again")


def lose(members: Members, minute: float) -> None:
    """Let the broker be away when *minute* begins, and wait until a beat with a ledger would have sent it."""
    begun = time.time()
    members.fleet.broker.kill()
    eventually(lambda: time.time() > minute + 2, timeout=10, what="the minute has begun")
    members.fleet.broker.start()
    members.faults.append(fault := Fault("broker stopped", begun, time.time()))
    members.await_recovery()
    eventually(lambda: time.time() > fault.over + SLACK, timeout=10, what="it is late")
