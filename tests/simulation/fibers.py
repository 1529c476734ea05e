"""The threads of a simulated node, on virtual time: product code that sleeps runs here unchanged."""

from __future__ import annotations

import contextlib
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import greenlet

from celery_leader.beat import gate
from celery_leader.election import elector, thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.simulation.node import Node
    from tests.simulation.world import World

#: What a standby's beat waits at most: ``leading`` wakes it in time, so it need not look each second.
STANDBY_WAIT = 4.0
#: A leader's thread looks every 0.05 s whether it may give back. Here it is told (``Node.poke``), for speed.
DRAIN_POLL = 1e6
#: Time that passes in any wait (seconds), as it does in computers: who waits for a moment in a loop gets there.
SHORTEST_WAIT = 0.002


class Fiber(greenlet.greenlet):
    """One thread of a node. It runs until it waits; the world goes on meanwhile."""

    def __init__(self, node: Node, run: Callable[[], None]) -> None:
        super().__init__(run)
        self.node = node
        self.killed = False
        self._ticket = 0

    def begin(self) -> None:
        """Run for the first time, unless it was killed before that."""
        if not self.killed:
            self.node.world.has_run = self.node
            self.switch()

    def live(self) -> None:
        """End here if it was killed: what is run on the way out of a crash does nothing to the world."""
        if self.killed:
            raise greenlet.GreenletExit

    def park(self, timeout: float, ticket: int | None = None) -> str:
        """Wait until woken, *timeout* seconds of the node's clock at most; return why it ended."""
        self.live()
        world = self.node.world
        self._ticket = ticket = ticket or world.new_ticket()
        if timeout < DRAIN_POLL:
            world.after(max(timeout, SHORTEST_WAIT) / self.node.clock.rate, lambda: self.wake(ticket, "timeout"))
        reason: str = world.hub.switch()
        return reason

    def wake(self, ticket: int, reason: str) -> None:
        """End the wait of that *ticket*, after the pause if the node is paused. Only the world may call it."""
        if ticket != self._ticket:
            return
        world = self.node.world
        if world.now < self.node.paused_until:
            world.at(self.node.paused_until, lambda: self.wake(ticket, reason))
            return
        self._ticket = 0
        world.has_run = self.node
        self.switch(reason)

    def poke(self) -> None:
        """End the wait that is under way, if any, for no reason: waits are looked at again."""
        if ticket := self._ticket:
            self.node.world.after(0, lambda: self.wake(ticket, "poke"))

    def kill(self) -> None:
        """End at once, in the midst of whatever it does."""
        self._ticket = 0
        self.killed = True
        if self and not self.dead:
            self.throw(greenlet.GreenletExit)


def current() -> Fiber:
    """Return the fiber that runs."""
    fiber = greenlet.getcurrent()
    assert isinstance(fiber, Fiber)
    return fiber


class VirtualEvent:
    """A ``threading.Event`` among fibers."""

    def __init__(self) -> None:
        self._flag = False
        self._waiting: list[Fiber] = []

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        self._flag = True
        self.poke()

    def clear(self) -> None:
        self._flag = False

    def poke(self) -> None:
        """End waits without a reason."""
        for fiber in self._waiting:
            fiber.poke()

    def wait(self, timeout: float = DRAIN_POLL) -> bool:
        """May end early for no reason, as a poll of a thread does."""
        if not self._flag:
            fiber = current()
            self._waiting.append(fiber)
            try:
                fiber.park(timeout)
            finally:
                self._waiting.remove(fiber)
        return self._flag


class VirtualBell:
    """The thread's ``Bell`` among fibers: a ring ends one wait."""

    def __init__(self) -> None:
        self._rung = VirtualEvent()

    def ring(self) -> None:
        self._rung.set()

    def poke(self) -> None:
        """End waits without a reason."""
        self._rung.poke()

    def wait(self, timeout: float) -> bool:
        rang = self._rung.wait(timeout)
        self._rung.clear()
        return rang


def _monotonic() -> float:
    fiber = greenlet.getcurrent()
    return fiber.node.clock.monotonic() if isinstance(fiber, Fiber) else time.monotonic()


@contextlib.contextmanager
def virtual_time(world: World) -> Iterator[None]:
    """Let product code that asks for time by itself get the time of the node that runs."""
    patches: list[tuple[Any, str, Any]] = [
        (thread, "time", SimpleNamespace(monotonic=_monotonic)),
        (thread, "random", world.random),
        (elector, "os", SimpleNamespace(getpid=os.getpid().__int__)),  # asked thousands of times a second
        (thread, "DRAIN_POLL", DRAIN_POLL),
        (thread, "LOOK_PERIOD", DRAIN_POLL),
        (gate, "STANDBY_WAIT", STANDBY_WAIT),
    ]
    before = [getattr(module, name) for module, name, _ in patches]
    for module, name, value in patches:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(patches, before, strict=True):
            setattr(module, name, value)
