"""Machines with a beat, in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu.transport import memory

from tests.beat.machines import Machines


@pytest.fixture
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """An empty store and an empty broker."""
    machines = Machines(store=f"memory://{request.node.nodeid}")
    memory.Channel.queues.clear()
    yield machines
    for machine in machines.started:
        machine.scheduler.close()
        machine.campaign.stop()
        for candidate in machine.campaign.candidates.values():
            candidate.elector.lock.close()  # its thread, which does so in the end, was never started
