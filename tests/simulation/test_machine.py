"""A state machine that drives a world by hand: hypothesis chooses what happens, and shortens what it finds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celery_leader.election import Candidacy
from tests.simulation.network import FATES
from tests.simulation.seeds import TIMINGS, settle
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.node import Node

nodes = st.integers(0, 2)
parts_of_a_lease = st.sampled_from([0.05, 0.2, 0.5, 1.0, 2.0])


class ElectionMachine(RuleBasedStateMachine):
    """Three nodes. Rules let time pass, bring faults and end them; in the end all must be well again."""

    @initialize(
        seed=st.integers(0, 2**16),
        timing=st.sampled_from(TIMINGS),
        rates=st.lists(st.sampled_from([0.85, 1.0, 1.2]), min_size=3, max_size=3),
        loses_data=st.booleans(),
    )
    def begin(self, seed: int, timing: tuple[float, float, float], rates: list[float], loses_data: bool) -> None:
        logging.disable(logging.CRITICAL)
        self.world = world = World(seed)
        world.loses_data = world.needs_wall_clocks = loses_data
        self.lease, deadline, retry = timing
        world.entries.update(often=self.lease / 2, seldom=12 * self.lease)
        for rate in rates:
            world.add_node(rate=rate, lease_duration=self.lease, renew_deadline=deadline, retry_period=retry).start()
        world.network.longest = 1.5 * self.lease
        self.since_loss = 0.0

    def node(self, place: int) -> Node:
        return self.world.nodes[place]

    @rule(leases=parts_of_a_lease)
    def time_passes(self, leases: float) -> None:
        self.world.run_until(self.world.now + leases * self.lease)

    @rule(fate=st.sampled_from(FATES), chance=st.sampled_from([0.0, 0.3, 1.0]))
    def network_changes(self, fate: str, chance: float) -> None:
        self.world.network.heal()
        setattr(self.world.network, fate, chance)

    @rule(place=nodes, leases=parts_of_a_lease, writes_only=st.booleans())
    def node_is_cut_off(self, place: int, leases: float, writes_only: bool) -> None:
        until = self.world.now + leases * self.lease
        setattr(self.node(place), "no_writes_until" if writes_only else "cut_off_until", until)

    @rule(place=nodes, leases=parts_of_a_lease)
    def node_is_paused(self, place: int, leases: float) -> None:
        self.node(place).paused_until = self.world.now + leases * self.lease

    @rule(place=nodes)
    def node_crashes(self, place: int) -> None:
        self.node(place).crash()

    @rule(place=nodes)
    def node_starts(self, place: int) -> None:
        self.node(place).start()

    @rule(place=nodes, leases=parts_of_a_lease)
    def node_is_stopped(self, place: int, leases: float) -> None:
        self.node(place).stop(patience=leases * self.lease)

    @rule(place=nodes, candidacy=st.sampled_from(list(Candidacy)))
    def eligibility_changes(self, place: int, candidacy: Candidacy) -> None:
        if self.node(place).is_alive:
            self.node(place).candidacy = candidacy
            self.node(place).poke()

    @rule(place=nodes, leases=parts_of_a_lease)
    def guarded_work_begins(self, place: int, leases: float) -> None:
        self.node(place).begin_work(leases * self.lease)

    @rule(leases=parts_of_a_lease)
    def broker_goes_away(self, leases: float) -> None:
        self.world.broker.away_until = self.world.now + leases * self.lease

    @precondition(lambda self: not self.world.needs_wall_clocks)
    @rule(place=nodes, seconds=st.sampled_from([-3600.0, -1.0, 3600.0]))
    def wall_clock_is_set(self, place: int, seconds: float) -> None:
        self.world.wall_clocks_are_right = False
        self.world.wall_clocks_step = True
        self.node(place).clock.skew += seconds

    @precondition(lambda self: self.world.loses_data)
    @rule()
    def snapshot_is_taken(self) -> None:
        self.world.store.take_snapshot()

    @precondition(lambda self: self.world.loses_data and self.world.now >= self.since_loss + 4 * self.lease)
    @rule()
    def store_loses_data(self) -> None:
        self.since_loss = self.world.now
        self.world.lose_data()

    @invariant()
    def no_rule_is_broken(self) -> None:
        self.world.rules.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                if not self.world.rules.is_broken:
                    settle(self.world)
            finally:
                self.world.close()
                logging.disable(logging.NOTSET)


class TestElection(ElectionMachine.TestCase):  # type: ignore[misc, name-defined]
    """What hypothesis runs. The same examples each time: seeds are what `make simulate` varies."""

    settings = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
