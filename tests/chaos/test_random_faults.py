"""For minutes, every 10 to 15 seconds, something fails; in the end the broker has every message that was due, once.

    make chaos MINUTES=5 [SEED=…]

What fails is drawn by a random number generator whose seed is printed. The short run of CI has some of the faults in
each of the four fleets, the long run each of them more than once.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.members import KINDS, Members

MINUTES = float(os.environ.get("CHAOS_MINUTES") or 1.2)
#: The same faults for everybody who names no seed; `make chaos` draws another one each time.
SEED = int(os.environ.get("CHAOS_SEED", "20261124") or random.randrange(10**6))

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(int(MINUTES * 60) + 240)]


@pytest.mark.parametrize("fleet", ["redis", "postgres"], indirect=True)
@pytest.mark.parametrize("shape", ["beats", "workers"])
def test_nothing_is_sent_twice_and_nothing_is_lost(fleet: Fleet, shape: str) -> None:
    """Three beats, or three workers with a beat inside, under random faults of processes, store and broker."""
    chance = random.Random(f"{SEED} {shape} {fleet.store}")
    members = Members(fleet, chance, beats=shape == "beats")
    fleet.conf["leader_beat"] = not members.beats
    fleet.election = "beat" if members.beats else "default"
    members.begin()
    since, kinds = time.time(), draw(chance)
    print(f"\nchaos: CHAOS_SEED={SEED} CHAOS_MINUTES={MINUTES:g} {shape} {fleet.store.partition(':')[0]}")  # noqa: T201
    while time.time() < since + MINUTES * 60:
        pause = time.monotonic() + chance.uniform(10, 15)
        members.harm(next(kinds))
        time.sleep(max(0.0, pause - time.monotonic()))
    members.await_recovery()
    account = members.end(since, until=time.time())
    ledger = fleet.last_claims()
    members.report(account)
    assert fleet.evidence().overlaps() == []
    assert account.complaints(ledger) == []


def draw(chance: random.Random) -> Iterator[str]:
    """Return kinds of faults without end: all of them in random order, again and again."""
    while True:
        yield from chance.sample(sorted(KINDS), len(KINDS))
