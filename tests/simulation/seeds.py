"""From a seed to a world, its faults, and the end in which all is well again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from celery_leader.election import Candidacy
from tests.simulation import fibers
from tests.simulation.faults import FAULTS, FAULTY_LEASES, guarded_work
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.node import Node

#: How long nothing may change after the faults, in leases.
QUIET_LEASES = 5
#: lease, deadline, retry.
TIMINGS = [(15.0, 10.0, 2.0), (6.0, 4.0, 1.0), (3.0, 2.0, 0.25)]
#: Slowest and fastest clock of a world: their ratio stays below lease / deadline.
RATES = [(0.85, 1.2), (0.5, 0.7), (1.4, 2.0)]

#: A batch that never saw one of these has proved nothing about it.
REQUIRED = [
    "takeover by expiry",
    "takeover by release",
    "stale renewal refused",
    "slower takeover refused",
    "late creation refused",
    "unknown write recovered by read-back",
    "request delivered twice",
    "vanished record put back",
    "vanished record waited out",
    "overlap after data loss",
    "store loses its data",
    "store is rolled back",
    "store is blanked by an operator",
    "store holds a record of nobody's",
    "store holds no record but something else",
    "store holds a damaged claim",
    "damage deleted",
    "absurd lease waited out no longer than its own",
    "stopped: expired",
    "stopped: lost",
    "stopped: released",
    "drain waited for guarded work",
    "drain overrun",
    "tick sent",
    "tick sent again",
    "claimed and unsent tick sent by the next leader",
    "missed ticks became one",
    "stale claim refused",
    "sent while the ledger was silent",
    "ledger not as the term opened it",
    "broker away",
]


def missing(seen: Counter[str]) -> list[str]:
    """Return which of the required sights a batch lacks."""
    return [what for what in REQUIRED if not seen[what]]


def simulate(seed: int) -> Counter[str]:
    """Run the world of *seed*; return what was seen in it.

    Raises:
        Violation: A rule was broken.
    """
    world = World(seed)
    try:
        return finish(populate(world)).witness
    finally:
        world.close()


def populate(world: World) -> World:
    """Draw nodes and faults: some kinds of faults for each world, so that each gets room."""
    random = world.random
    timings = random.sample(TIMINGS, random.choice([1, 1, 2]))
    slowest, fastest = random.choice(RATES)
    loses_data = world.loses_data = random.random() < 0.25
    # Tokens outgrow those that a store forgot only where wall clocks are about right.
    right = world.needs_wall_clocks = loses_data or random.random() < 0.4
    world.wall_clocks_are_right = right
    for _ in range(random.choice([2, 2, 3, 3, 4, 5])):
        lease, deadline, retry = random.choice(timings)
        node = world.add_node(
            rate=random.choice([slowest, fastest, random.uniform(slowest, fastest)]),
            skew=0.0 if right else random.choice([0.0, -3600.0, random.uniform(-3600, 3600)]),
            frozen=not right and random.random() < 0.1,
            lease_duration=lease,
            renew_deadline=deadline,
            retry_period=retry,
        )
        world.after(random.uniform(0, lease), node.start)
    longest = max(node.config.lease_duration for node in world.nodes)
    world.network.longest = 1.5 * longest
    world.entries = {"often": longest / 2, "seldom": 12 * longest}
    for fault in random.sample(FAULTS, random.randint(1, 4)):
        world.note(None, f"fault: {fault.__name__}")
        fault(world, longest)
    if random.random() < 0.7:
        guarded_work(world, longest)
    if loses_data:  # seldom enough that a leader can't sleep through two of them
        for lease in range(2, FAULTY_LEASES, 4):
            moment = lease * longest + random.uniform(0, longest)
            world.at(moment - random.uniform(0, 1.5 * longest), world.store.take_snapshot)
            world.at(moment, world.lose_data)
    return world


def finish(world: World) -> World:
    """Let the faults happen, end them, and see a leader come and stay."""
    longest = max(node.config.lease_duration for node in world.nodes)
    world.run_until(FAULTY_LEASES * longest)
    settle(world)
    return world


def settle(world: World) -> None:
    """End all faults; a leader must come, stay, and have sent all that is due."""
    longest = max(node.config.lease_duration for node in world.nodes)
    heal(world)
    slowest = min(node.clock.rate for node in world.nodes)
    world.run_until(world.now + 2 * longest / slowest)  # who stands still wakes, and late requests arrive
    bound = max(_bound(node, longest) for node in world.nodes)
    found = world.run_until(world.now + bound, stop=lambda: any(node.is_leader() for node in world.nodes))
    world.rules.require(found, f"nobody leads {bound:.1f} s after the last fault")
    before = world.rules.terms
    world.run_until(world.now + QUIET_LEASES * longest)
    world.rules.require(world.rules.terms == before, "the leader changed although nothing failed")
    leaders = [node for node in world.nodes if node.is_leader()]
    world.rules.require(len(leaders) == 1, "the leader went although nothing failed")
    if world.entries:
        slack = 2 * fibers.STANDBY_WAIT / slowest + 4 * longest / 3
        found = world.run_until(world.now + slack, stop=world.beat_rules.is_settled)
        world.rules.require(found, "a tick is claimed and not sent")
        world.beat_rules.check_liveness(leaders[0], slack)


def heal(world: World) -> None:
    """End every fault; whoever is down comes back."""
    world.note(None, "all faults end")
    world.network.heal()
    world.broker.heal()
    world.storm = 0.0
    for node in world.nodes:
        node.stall_chance = 0.0
        node.paused_until = node.cut_off_until = node.no_writes_until = world.now
        if node.is_alive and node.closing:  # it stands still yet: its restart came and went
            node.crash()
        node.start()
        node.candidacy = Candidacy.CONTEND


def _bound(node: Node, longest: float) -> float:
    """Return how long it may take *node* to see a dead lease through: a pending call, the lease, two polls (L1)."""
    poll = node.config.retry_period * (1 + node.config.jitter_factor)
    return (longest + 2 * poll + 4 * node.io_timeout) / node.clock.rate
