"""Three beats of their own whose messages go to RabbitMQ; and beats that must stop while their broker hangs."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.chaos.fleet import LEASE, Fleet
from tests.chaos.members import Members
from tests.servers import RabbitServer, RedisServer
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

RABBIT = pytest.param(RabbitServer, marks=pytest.mark.rabbitmq)
#: The longest (seconds) from the signal until another leads, on two busy cores.
HANDOVER = 2.5


@pytest.mark.parametrize("broker", [RABBIT], indirect=True)
def test_rabbitmq_gets_every_tick_once(fleet: Fleet) -> None:
    """Though the leader is killed and stopped, and the broker is killed and hangs for longer than it is waited for."""
    members = Members(fleet, random.Random(0), beats=True)
    fleet.conf["leader_beat"], fleet.election = False, "beat"
    members.begin()
    since = time.time()
    for kind in ("kill leader", "broker restarted", "terminate leader", "kill leader without broker"):
        members.harm(kind)
    members.broker_away("broker hung", hung=True, seconds=2 * LEASE)
    members.await_recovery()
    account = members.end(since, until=time.time())
    ledger = fleet.last_claims()
    members.report(account)
    assert fleet.evidence().overlaps() == []
    assert account.complaints(ledger) == []


@pytest.mark.parametrize(
    "beats", [pytest.param(True, marks=pytest.mark.quick, id="beat"), pytest.param(False, id="worker")]
)
@pytest.mark.parametrize("broker", [RedisServer, RABBIT], indirect=True)
def test_a_beat_whose_broker_hangs_hands_over_when_asked_to(fleet: Fleet, beats: bool) -> None:
    """It cuts its connection instead of waiting for its socket. The next leader sends the rest, with the same ids."""
    members = Members(fleet, random.Random(0), beats=beats)
    if beats:
        fleet.conf["leader_beat"], fleet.election = False, "beat"
    members.begin()
    since = time.time()
    leader, terms = members.leader(), len(fleet.evidence().terms())
    fleet.broker.pause()

    def is_stuck() -> bool:
        """Whether the leader has announced more messages than the broker took."""
        sent = [line for line in fleet.evidence().of("sent") if line["pid"] == fleet.processes[leader].pid]
        return fleet.times_logged("Sending due task", leader) > len(sent)

    eventually(is_stuck, what="it waits for the broker")
    begun = fleet.signal(leader, signal.SIGTERM)
    handover = fleet.await_term(terms) - begun
    assert not beats or fleet.await_end(leader) == 0  # a worker's consumer waits for the broker, too
    ended = time.clock_gettime(time.CLOCK_BOOTTIME) - begun
    print(f"\nchaos: {fleet.broker.name} hangs: handed over in {handover:.2f} s, ended after {ended:.2f} s")  # noqa: T201
    fleet.broker.resume()
    members.note("broker hung", since, time.time() + 4.0, resends=True, loses_answers=True)
    members.await_recovery()
    account = members.end(since, until=time.time())
    assert fleet.evidence().overlaps() == []
    assert account.complaints(fleet.last_claims()) == []
    assert handover < HANDOVER
    assert not beats or ended < HANDOVER + 2
