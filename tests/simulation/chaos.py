"""From a seed to a world, its faults, and the end in which all is well again."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from celery_leader.election import Candidacy
from tests.simulation.world import Node, World

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long faults go on, and how long nothing may change afterwards; in leases.
FAULTY_LEASES = 10
QUIET_LEASES = 5
#: lease, deadline, retry. Their ratio stays above the one of the fastest clock to the slowest.
TIMINGS = [(15.0, 10.0, 2.0), (6.0, 4.0, 1.0), (3.0, 2.0, 0.25)]
SLOWEST, FASTEST = 0.85, 1.2


def simulate(seed: int) -> Counter[str]:
    """Run the world of *seed*; return what was seen in it.

    Raises:
        Violation: A rule was broken.
    """
    return finish(populate(World(seed))).witness


def populate(world: World) -> World:
    """Draw nodes and faults: some kinds of faults for each world, so that each gets room."""
    random = world.random
    timings = random.sample(TIMINGS, random.choice([1, 1, 2]))
    loses_data = world.loses_data = random.random() < 0.25
    for _ in range(random.randint(2, 5)):
        lease, deadline, retry = random.choice(timings)
        node = world.add_node(
            rate=random.choice([SLOWEST, FASTEST, random.uniform(SLOWEST, FASTEST)]),
            # Tokens outgrow those that a store forgot only where wall clocks are about right.
            skew=0.0 if loses_data else random.choice([0.0, -3600.0, random.uniform(-3600, 3600)]),
            frozen=not loses_data and random.random() < 0.1,
            lease_duration=lease,
            renew_deadline=deadline,
            retry_period=retry,
        )
        world.after(random.uniform(0, lease), node.start)
    longest = max(node.config.lease_duration for node in world.nodes)
    for fault in random.sample(FAULTS, random.randint(1, 4)):
        fault(world, longest)
    if loses_data:  # seldom enough that a leader can't sleep through two of them
        for lease in range(2, FAULTY_LEASES, 4):
            world.at(lease * longest + random.uniform(0, longest), world.lose_data)
    return world


def finish(world: World) -> World:
    """Let the faults happen, end them, and see a leader come and stay."""
    longest = max(node.config.lease_duration for node in world.nodes)
    world.run_until(FAULTY_LEASES * longest)
    heal(world)
    bound = max(_bound(node, longest) for node in world.nodes)
    found = world.run_until(world.now + bound, stop=lambda: any(node.is_leader() for node in world.nodes))
    world.rules.require(found, f"nobody leads {bound:.1f} s after the last fault")
    # Requests that are still on their way arrive; who stalls does so for two leases, and may be followed a lease later.
    world.run_until(world.now + 4 * longest)
    before = world.rules.terms
    world.run_until(world.now + QUIET_LEASES * longest)
    world.rules.require(world.rules.terms == before, "the leader changed although nothing failed")
    world.rules.require(any(node.is_leader() for node in world.nodes), "the leader went although nothing failed")
    return world


def heal(world: World) -> None:
    """End every fault; whoever is down comes back."""
    world.note(None, "all faults end")
    world.network.heal()
    for node in world.nodes:
        node.stall_chance = 0.0
        node.paused_until = node.cut_off_until = node.no_writes_until = world.now
        node.candidacy = Candidacy.CONTEND
        node.stop_requested = False  # it was asked to stop, and stands still yet: its restart came and went
        node.start()


def _bound(node: Node, longest: float) -> float:
    """Return how long it may take *node* to see a dead lease through: a pending call, the lease, two polls."""
    poll = node.config.retry_period * (1 + node.config.jitter_factor)
    # A node that stands still when the faults end wakes within two leases, and what is on its way may count as a
    # renewal once more.
    late = 2 * longest
    return (late + longest + 2 * poll + 4 * node.io_timeout) / SLOWEST


# -- faults ------------------------------------------------------------------------------------------------------


def _sometimes(world: World, longest: float, action: Callable[[Node], None], *, leases: float = 1.0) -> None:
    """Do *action* to some node now and then, on average once in so many leases."""
    moment = 0.0
    while (moment := moment + world.random.expovariate(1 / (leases * longest))) < FAULTY_LEASES * longest:
        world.at(moment, partial(action, world.random.choice(world.nodes)))


def _errors(world: World, longest: float) -> None:
    world.network.errors = world.random.uniform(0, 0.4)


def _lost_requests(world: World, longest: float) -> None:
    world.network.lost_requests = world.random.uniform(0, 0.3)


def _lost_replies(world: World, longest: float) -> None:
    world.network.lost_replies = world.random.uniform(0, 0.5)


def _late_requests(world: World, longest: float) -> None:
    world.network.late_requests = world.random.uniform(0, 0.4)
    world.network.longest = 1.5 * longest


def _slow_replies(world: World, longest: float) -> None:
    world.network.slow_replies = world.random.uniform(0, 0.4)
    world.network.longest = 1.5 * longest


def _stalls(world: World, longest: float) -> None:
    for node in world.nodes:
        node.stall_chance = world.random.uniform(0, 0.05)


def _pauses(world: World, longest: float) -> None:
    def pause(node: Node) -> None:
        world.note(node, "is paused")
        end_of_faults = FAULTY_LEASES * longest
        node.paused_until = min(world.now + world.random.uniform(0, 3 * longest), end_of_faults)

    _sometimes(world, longest, pause)


def _crashes(world: World, longest: float) -> None:
    def crash(node: Node) -> None:
        node.crash()
        world.after(world.random.uniform(0, longest), node.start)

    _sometimes(world, longest, crash)


def _deploys(world: World, longest: float) -> None:
    def stop(node: Node) -> None:
        node.stop_requested = True
        world.after(world.random.uniform(longest, 2 * longest), node.start)

    _sometimes(world, longest, stop)


def _partitions(world: World, longest: float) -> None:
    def cut_off(node: Node) -> None:
        until = world.now + world.random.uniform(0, 2 * longest)
        if world.random.random() < 0.5:
            node.cut_off_until = until
        else:
            node.no_writes_until = until

    _sometimes(world, longest, cut_off)


def _outages(world: World, longest: float) -> None:
    def outage(_: Node) -> None:
        until = world.now + world.random.uniform(0, 2 * longest)
        for node in world.nodes:
            node.cut_off_until = until

    _sometimes(world, longest, outage, leases=3.0)


def _eligibility(world: World, longest: float) -> None:
    def flip(node: Node) -> None:
        node.candidacy = world.random.choice(list(Candidacy))

    _sometimes(world, longest, flip)


def _wall_clocks(world: World, longest: float) -> None:
    def step(node: Node) -> None:
        if not world.loses_data:
            node.clock.skew += world.random.uniform(-3600, 3600)

    _sometimes(world, longest, step)


FAULTS: list[Callable[[World, float], None]] = [
    _errors, _lost_requests, _lost_replies, _late_requests, _slow_replies, _stalls, _pauses, _crashes, _deploys,
    _partitions, _outages, _eligibility, _wall_clocks,
]  # fmt: skip
