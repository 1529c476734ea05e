"""The store and the broker are emptied, stopped and hung under three workers."""

from __future__ import annotations

import time

import pytest

from tests.chaos.fleet import CANDIDATE, DEADLINE, LEASE, LONGEST_TAKEOVER, PERIODS, RETRY, Fleet
from tests.servers import RedisServer
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

#: Seconds until a leader ticks after its store is back: a lease, a retry period, and the slack of two cores.
BACK = LEASE + RETRY * 2.2 + 2.0


def ticks_after(fleet: Fleet, moment: float) -> list[float]:
    """Return when ticks that were sent after *moment* were executed."""
    return [line["at"] for line in fleet.evidence().of("tick") if line["at"] > moment]


def now() -> float:
    """Return the time that the workers write down."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.quick
@pytest.mark.parametrize("harm", ["emptied", "stopped", "hung"])
def test_a_store_that_fails_ends_no_process(fleet: Fleet, redis_store: RedisServer, harm: str) -> None:
    """Beat goes on within one retry period and a lease after the store is back; nothing is sent twice."""
    fleet.start_all("a", "b", "c")
    fleet.await_ticking_leader()
    if harm == "emptied":
        redis_store.restart(empty=True)
    elif harm == "stopped":
        redis_store.stop()
        time.sleep(3 * LEASE)
        redis_store.start()
    else:
        redis_store.pause()
        time.sleep(3 * LEASE)
        redis_store.resume()
    back = now()
    first = eventually(lambda: ticks_after(fleet, back), timeout=BACK + 10)[0]
    fleet.await_ticking_leader()
    assert sorted(fleet.alive()) == ["a", "b", "c"]
    claimed = fleet.finish()
    evidence = fleet.evidence()
    fleet.report([first - back])
    assert first - back < BACK
    assert evidence.overlaps() == []
    assert evidence.twice() == []
    away = 0 if harm == "emptied" else 3 * LEASE
    assert evidence.lost(claimed, PERIODS, away + LONGEST_TAKEOVER) == []
    # A leader sends on through its trust. If another leads when the store is back, its claims can't be written then.
    for entry, count in evidence.unclaimed(claimed).items():
        assert away, "the store was never away"
        assert count <= 1 + DEADLINE / PERIODS[entry]


def test_a_store_that_is_away_at_first_is_waited_for(fleet: Fleet, redis_store: RedisServer) -> None:
    """Workers work, nobody leads, and one does when the store comes."""
    redis_store.stop()
    fleet.start("a")
    fleet.start("b")
    fleet.app.send_task("chaos_project.ask", (1,))
    eventually(lambda: fleet.evidence().of("answer"), timeout=40)
    assert not fleet.evidence().of("answer")[0]["leads"]
    redis_store.start()
    back = now()
    fleet.await_leader()
    assert fleet.evidence().terms()[0][0] - back < BACK
    assert sorted(fleet.alive()) == ["a", "b"]


def test_a_worker_without_a_broker_does_not_lead(fleet: Fleet, broker: RedisServer) -> None:
    """It leads when the broker is there."""
    broker.stop()
    fleet.start("a")
    fleet.await_logged("a", CANDIDATE)
    fleet.await_logged("a", "Cannot connect to")
    assert fleet.evidence().terms() == []
    broker.start()
    assert fleet.await_ticking_leader() == "a"


def test_a_broker_that_restarts_loses_no_tick(fleet: Fleet, broker: RedisServer) -> None:
    """Terms go on, and the unsent ticks are sent afterwards."""
    fleet.start_all("a", "b", "c")
    fleet.await_ticking_leader()
    broker.stop()
    gone = now()
    eventually(lambda: now() - gone > LEASE, timeout=LEASE + 5)
    broker.start()
    back = now()
    eventually(lambda: ticks_after(fleet, back), timeout=60)
    fleet.await_ticking_leader()
    assert sorted(fleet.alive()) == ["a", "b", "c"]
    claimed = fleet.finish()
    evidence = fleet.evidence()
    fleet.report()
    assert evidence.overlaps() == []
    assert evidence.twice() == []
    assert evidence.lost(claimed, PERIODS, LEASE + 60) == []
    assert evidence.unclaimed(claimed) == {}
