"""The real electors, through hundreds of bad days (DESIGN §13)."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.simulation.invariants import Violation
from tests.simulation.seeds import missing, simulate
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seeds of each test run, and how long (seconds) a machine of two cores may take for them.
SEEDS, LONGEST, CORES = 1000, 120, 2
#: Batches for the processes of a test run. Each is large enough to see everything.
BATCHES = [range(first, first + 250) for first in range(0, SEEDS, 250)]
#: The protocol needs the standard library only: the first batch shows that it runs on all versions.
MARKED = [BATCHES[0], *(pytest.param(batch, marks=pytest.mark.once) for batch in BATCHES[1:])]

pytestmark = pytest.mark.timeout(400)  # of a machine that does a lot besides


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Warnings of thousands of failed renewals help nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seeds", MARKED, ids=str)
def test_no_rule_is_broken_and_every_path_was_seen(seeds: range) -> None:
    """At most one trusts itself, tokens grow, ticks go out once, a leader comes back: whatever store and clocks do.

    A failing seed is told with its story; ``python -m tests.simulation SEED`` runs it again. Time is counted as the
    processor's, so that what else a machine does fails no batch.
    """
    seen: Counter[str] = Counter()
    begun = time.process_time()
    for seed in seeds:
        seen += simulate(seed)
        seen["world"] += 1
    took = time.process_time() - begun
    assert missing(seen) == []
    assert seen["world"] * len(BATCHES) == SEEDS
    assert took * len(BATCHES) < LONGEST * CORES


def test_a_seed_tells_the_same_story_each_time() -> None:
    """What a seed found can be looked at again."""
    assert simulate(7) == simulate(7)


def test_the_rules_see_two_leaders() -> None:
    """The watchman is awake: clocks whose rates differ by more than lease / deadline break the promise."""
    world = World(0)
    slow, fast = world.add_node(rate=0.5), world.add_node(rate=1.5)
    slow.start()
    world.run_until(5)
    assert slow.is_leader()
    slow.cut_off_until = 1000.0
    fast.start()
    with pytest.raises(Violation, match="two trust themselves"):
        world.run_until(100)


@pytest.mark.parametrize(("leaders", "followers"), [(0.82, 1.2), (1.0, 1.49), (1.49, 1.0)])
def test_rates_within_the_bound_are_harmless(leaders: float, followers: float) -> None:
    """Almost lease / deadline apart, the leader's trust is over before the takeover."""
    for seed in range(20):
        world = World(seed)
        slow, fast = world.add_node(rate=leaders), world.add_node(rate=followers)
        slow.start()
        world.run_until(5)
        fast.start()
        world.run_until(20)
        slow.cut_off_until = 1000.0
        assert world.run_until(100, stop=fast.is_leader)
        assert not slow.is_leader()


@pytest.mark.once
def test_nothing_changes_while_nothing_fails() -> None:
    """A day without a fault is a day with one leader (L6)."""
    world = World(1)
    nodes = [world.add_node(rate=rate) for rate in (0.85, 1.0, 1.2)]
    for node in nodes:
        node.start()
    world.run_until(60)
    at_first = Counter(world.witness)  # all of them may have tried to create the record
    world.run_until(24 * 3600)
    assert world.witness == at_first
    assert world.rules.terms == 1
    assert sum(node.is_leader() for node in nodes) == 1


def test_a_crashed_leader_is_followed_within_a_lease_and_a_poll() -> None:
    """The budget: lease + retry × 2.2, the poll that saw the last renewal; and the calls themselves (L1)."""
    for seed in range(100):
        world = World(seed)
        leader, follower = world.add_node(rate=1.0), world.add_node(rate=1.0)
        leader.start()
        world.run_until(60)
        follower.start()
        world.run_until(100)
        leader.crash()
        assert world.run_until(100 + 15 + 2 * 2.2 + 1, stop=follower.is_leader)


def test_a_stopped_leader_is_followed_at_once() -> None:
    """With a hint in milliseconds, without one within a poll (L2)."""
    slowest = 0.0
    for seed in range(20):
        world = World(seed)
        leader, follower = world.add_node(rate=1.0), world.add_node(rate=1.0)
        leader.start()
        world.run_until(30)
        follower.start()
        world.run_until(60)
        leader.stop(patience=0)
        assert world.run_until(70, stop=lambda world=world: world.store.stored.record.holder_identity == "")
        released = world.now
        assert world.run_until(released + 2 * 2.2 + 1, stop=follower.is_leader)
        slowest = max(slowest, world.now - released)
        assert world.witness["takeover by release"] == 1
    assert slowest < 2 * 2.2 + 1
