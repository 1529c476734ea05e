"""The kinds of faults of a world. Which of the research's list F1 to F21 is where:

==== ====================================================== ==========================================================
F1   crash at every call of the store                       ``crashes`` (at any moment, so within calls too);
                                                            the exhaustive mode crashes at each
F2   restart with the same host, new nonce                  every start; without a nonce: ``shared_identity``
F3   pause before send, before reply, between belief and    ``stalls``, ``pauses``
     effect
F4   clock rates 0.5 to 2 ×                                 ``seeds.RATES``: each pair within lease / deadline; beyond
                                                            that the rules see two leaders (``test_simulation``)
F5   wall clock steps by an hour                            ``wall_clocks``, and skewed or frozen from the start
F6   store clock steps                                      does not apply: no decision reads it
F7   suspend                                                ``pauses``: the elector's clock goes on while the machine
                                                            sleeps (``test_clock`` holds that where the system can)
F8   reply lost after commit                                ``lost_replies``
F9   reply delayed past the lease                           ``slow_replies``
F10  request applied late, after a newer term               ``late_requests``
F11  a request delivered twice                              ``doubled_requests``
F12  errors of the store                                    ``errors``; locks turn all kinds into ``StoreUnavailable``
                                                            or ``RecordDamaged`` (``LockContract``, backends' tests)
F13  partitions of one, of all, of writes only              ``partitions``, ``outages``
F14  record deleted or blanked by an operator               ``World.lose_data``
F15  store rolled back to an earlier state                  ``World.lose_data`` after ``StoreModel.take_snapshot``
F16  hints lost, late, doubled, storms                      always some; ``hint_storms``
F17  slow or raising callbacks                              not here: they run on threads of their own
                                                            (``tests/election/test_observers.py``)
F18  stop at any point; fork                                ``deploys``; forks are real ones in ``test_elector``
F19  configurations that differ, identity clash,            timings are drawn for each node; ``shared_identity``;
     eligibility flips                                      ``eligibility``
F20  rolling deploy                                         ``deploys``, ``rolling_deploys``
F21  due times that differ between nodes                    wall clocks skewed by up to an hour; each node computes
                                                            due times by its own
==== ====================================================== ==========================================================

The broker's own: ``broker_away``. Guarded work, which drains must wait for, runs in most worlds: ``guarded_work``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from celery_leader.election import Candidacy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.node import Node
    from tests.simulation.world import World

#: How long faults go on, in leases.
FAULTY_LEASES = 10


def sometimes(world: World, longest: float, action: Callable[[Node], None], *, leases: float = 1.0) -> None:
    """Do *action* to some node now and then, on average once in so many leases."""
    moment = 0.0
    while (moment := moment + world.random.expovariate(1 / (leases * longest))) < FAULTY_LEASES * longest:
        world.at(moment, partial(action, world.random.choice(world.nodes)))


def errors(world: World, longest: float) -> None:
    world.network.errors = world.random.uniform(0, 0.4)


def lost_requests(world: World, longest: float) -> None:
    world.network.lost_requests = world.random.uniform(0, 0.3)


def lost_replies(world: World, longest: float) -> None:
    world.network.lost_replies = world.random.uniform(0, 0.5)


def late_requests(world: World, longest: float) -> None:
    world.network.late_requests = world.random.uniform(0, 0.4)


def slow_replies(world: World, longest: float) -> None:
    world.network.slow_replies = world.random.uniform(0, 0.4)


def doubled_requests(world: World, longest: float) -> None:
    world.network.doubled = world.random.uniform(0, 0.4)


def stalls(world: World, longest: float) -> None:
    for node in world.nodes:
        node.stall_chance = world.random.uniform(0, 0.05)


def pauses(world: World, longest: float) -> None:
    def pause(node: Node) -> None:
        world.note(node, "is paused")
        end_of_faults = FAULTY_LEASES * longest
        node.paused_until = min(world.now + world.random.uniform(0, 3 * longest), end_of_faults)

    sometimes(world, longest, pause)


def crashes(world: World, longest: float) -> None:
    def crash(node: Node) -> None:
        node.crash()
        world.after(world.random.uniform(0, longest), node.start)

    sometimes(world, longest, crash)


def deploys(world: World, longest: float) -> None:
    def stop(node: Node) -> None:
        node.stop(patience=world.random.uniform(0, longest))
        world.after(world.random.uniform(longest, 2 * longest), node.start)

    sometimes(world, longest, stop)


def rolling_deploys(world: World, longest: float) -> None:
    """Restart all, one after the other."""
    begin, apart = world.random.uniform(0, 5 * longest), world.random.uniform(0.1, 0.8) * longest
    for place, node in enumerate(world.nodes):
        world.at(begin + place * apart, partial(node.stop, patience=apart))
        world.at(begin + place * apart + longest, node.start)


def partitions(world: World, longest: float) -> None:
    def cut_off(node: Node) -> None:
        until = world.now + world.random.uniform(0, 2 * longest)
        if world.random.random() < 0.5:
            node.cut_off_until = until
        else:
            node.no_writes_until = until

    sometimes(world, longest, cut_off)


def outages(world: World, longest: float) -> None:
    def outage(_: Node) -> None:
        until = world.now + world.random.uniform(0, 2 * longest)
        for node in world.nodes:
            node.cut_off_until = until

    sometimes(world, longest, outage, leases=3.0)


def eligibility(world: World, longest: float) -> None:
    def flip(node: Node) -> None:
        node.candidacy = world.random.choice(list(Candidacy))
        if node.is_alive:
            node.poke()

    sometimes(world, longest, flip)


def wall_clocks(world: World, longest: float) -> None:
    def step(node: Node) -> None:
        node.clock.skew += world.random.uniform(-3600, 3600)

    if world.needs_wall_clocks:
        return
    world.wall_clocks_are_right = False
    world.wall_clocks_step = True
    sometimes(world, longest, step)


def hint_storms(world: World, longest: float) -> None:
    world.storm = 0.9
    sometimes(world, longest, lambda _: world.storm_of_hints(), leases=0.5)


def broker_away(world: World, longest: float) -> None:
    def away(_: Node) -> None:
        world.broker.away_until = world.now + world.random.uniform(0, 2 * longest)

    world.broker.lost_confirms = world.random.choice([0.0, 0.2])
    sometimes(world, longest, away)


def shared_identity(world: World, longest: float) -> None:
    """Give two nodes one name, in all their lives: tokens alone tell them apart, so wall clocks must be right."""
    if world.needs_wall_clocks:
        for node in world.random.sample(world.nodes, 2):
            node.shares_identity = True


def guarded_work(world: World, longest: float) -> None:
    sometimes(world, longest, lambda node: node.begin_work(world.random.uniform(0, longest)), leases=0.1)


FAULTS: list[Callable[[World, float], None]] = [
    errors, lost_requests, lost_replies, late_requests, slow_replies, doubled_requests, stalls, pauses, crashes,
    deploys, rolling_deploys, partitions, outages, eligibility, wall_clocks, hint_storms, broker_away, shared_identity,
]  # fmt: skip
