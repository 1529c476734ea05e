"""A machine of the simulated world: the real elector in the real thread's loop, the real beat, work to do."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from celery_leader.election import Candidacy, ElectionConfig, ElectorThread, LeaderElector, StoredRecord, Term, Trust
from celery_leader.leadership.campaign import Candidate
from tests.simulation.beat import SimulatedBeat
from tests.simulation.fibers import Fiber, VirtualBell, VirtualEvent, current
from tests.simulation.store_model import SimulatedLock

if TYPE_CHECKING:
    from tests.simulation.world import World

EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass
class NodeClock:
    """A node's two clocks. The monotonic one runs at its own rate; the wall clock is as wrong as it likes."""

    world: World
    rate: float
    offset: float
    skew: float = 0.0
    frozen: bool = False

    def monotonic(self) -> float:
        return self.offset + self.rate * self.world.now

    def utcnow(self) -> datetime:
        return EPOCH + timedelta(seconds=self.skew + (0 if self.frozen else self.world.now))

    def real(self, monotonic: float) -> float:
        """Return the world's time at which this clock showed *monotonic*."""
        return (monotonic - self.offset) / self.rate


class SimulatedThread(ElectorThread):
    """The real thread's loop, in a fiber: it sleeps on a bell among fibers. A bug in a turn is not survived."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.elector, candidacy=lambda: node.candidacy, is_busy=node.is_busy)
        self._node = node
        self._woken = VirtualEvent()  # type: ignore[assignment]
        self._bell = VirtualBell()  # type: ignore[assignment]

    def _turn(self) -> None:
        unknown_before = self._node.unknown_writes
        try:
            super()._turn()
        except Exception as error:
            self._node.world.rules.require(False, f"{self._node.identity}: an attempt raised {error!r}")
            raise
        if self._node.unknown_writes > unknown_before and self.elector.is_leader():
            self._node.world.witness["unknown write recovered by read-back"] += 1


class SimulatedCandidate(Candidate):
    """The real candidate without its shared memory: the node stands in for the shared trust."""

    def __init__(self, node: Node) -> None:
        self.election = node.config.name
        self.shared_trust = node  # type: ignore[assignment]
        self.leading, self.not_leading = VirtualEvent(), VirtualEvent()  # type: ignore[assignment]
        self.not_leading.set()
        self._listeners = []
        self.elector = LeaderElector(
            replace(node.config, identity=node.identity),
            SimulatedLock(node.world, node),
            clock=node.clock,
            publish=self._publish,
            random_source=node.world.random,
        )
        self.elector._reports.observers = node  # type: ignore[assignment]  # told at once: threads are not deterministic


class Node:
    """A machine with one candidate; a restart gives it a new elector and a new identity."""

    def __init__(self, world: World, name: str, clock: NodeClock, config: ElectionConfig) -> None:
        self.world = world
        self.name = self.identity = name
        self.clock = clock
        self.io_timeout = config.renew_deadline / 2
        self.config = config
        self.stall_chance = 0.0
        self.candidacy = Candidacy.CONTEND
        self.cut_off_until = self.no_writes_until = self.paused_until = 0.0
        self.shares_identity = False
        self.checked: Trust | None = None  # by the rules, when it was new
        self._lives = itertools.count(1)
        self._elector_fiber: Fiber | None = None
        self._beat_fiber: Fiber | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a new life, unless this one goes on."""
        if self.is_alive:
            return
        self._kill_beat()
        self.identity = "shared" if self.shares_identity else f"{self.name}/{next(self._lives)}"
        self.candidacy = Candidacy.CONTEND
        self.closing = self.overruns = False
        self.works = self.unknown_writes = 0
        self.was_told_of_none = False  # by the last look
        self.published: Trust | None = None
        self.seen: tuple[StoredRecord, float] | None = None
        self.open_term: Term | None = None
        candidate = SimulatedCandidate(self)
        self.elector = candidate.elector
        self.thread = SimulatedThread(self)
        self.beat = SimulatedBeat(self, candidate) if self.world.entries else None
        self.candidate = candidate
        self._elector_fiber = self._spawn(self._live)
        if self.beat:
            self._beat_fiber = self._spawn(self.beat.run)
        self.world.note(self, "starts")

    def _spawn(self, run: Any) -> Fiber:
        fiber = Fiber(self, run)
        self.world.after(0, fiber.begin)
        return fiber

    def crash(self) -> None:
        """Die at once, in the midst of whatever it does. What it has sent is on its way all the same."""
        if self.is_alive:
            self.world.note(self, "crashes")
        self.works = 0
        fiber, self._elector_fiber = self._elector_fiber, None
        if fiber is not None:  # a fiber that has not begun is false
            fiber.kill()
        self._kill_beat()

    def _kill_beat(self) -> None:
        fiber, self._beat_fiber = self._beat_fiber, None
        if fiber is not None:  # a fiber that has not begun is false
            fiber.kill()

    def stop(self, *, patience: float) -> None:
        """Shut down as a worker does: no new work, give back when none runs, or after *patience* seconds anyway."""
        if not self.is_alive or self.closing:
            return
        self.world.note(self, "is asked to stop")
        self.closing = True
        self.thread.drain()
        life = self.identity
        self.world.after(patience, lambda: self._end(life))

    def _end(self, life: str) -> None:
        if self.identity != life or not self.is_alive:
            return
        self.overruns = self.is_busy()
        if self.overruns and self.is_leader():
            self.world.note(self, "stops although work runs")
            self.world.witness["drain overrun"] += 1
        if self.beat:
            self.beat.stop()
        self.thread.stop()

    @property
    def is_alive(self) -> bool:
        return self._elector_fiber is not None and not self._elector_fiber.dead

    @property
    def trust(self) -> Trust | None:
        """What this node believes at this moment."""
        return self.elector.trust if self.is_alive else None

    def is_leader(self) -> bool:
        return self.trust is not None

    def _live(self) -> None:
        self.thread._run()
        self.world.rules.has_stopped(self)

    # -- work ----------------------------------------------------------------------------------------------------

    def is_busy(self) -> bool:
        """Whether guarded work runs, or a tick of the beat."""
        return self.works > 0 or (self.beat is not None and self.beat.is_ticking)

    def begin_work(self, seconds: float) -> None:
        """Start a guarded task if this node leads and may."""
        if not self.is_alive or self.candidate.term is None:
            return
        self.world.note(self, "guarded work begins")
        self.works += 1
        self.world.after(seconds, lambda: self._end_work(self.thread))

    def _end_work(self, thread: ElectorThread) -> None:
        if self.is_alive and thread is self.thread:
            if self.closing and self.is_leader():
                self.world.witness["drain waited for guarded work"] += 1
            self.world.note(self, "guarded work ends")
            self.works -= 1
            self.poke()

    def poke(self) -> None:
        """Make the elector's thread look whether it may give back, within the real one's poll."""
        thread = self.thread
        self.world.after(self.world.random.uniform(0, 0.05), thread._bell.poke)  # type: ignore[attr-defined]

    # -- waiting -------------------------------------------------------------------------------------------------

    def stall(self) -> None:
        """Stand still between two instructions, sometimes."""
        if self.stall_chance and self.world.random.random() < self.stall_chance:
            self.world.note(self, "stalls")
            current().park(self.world.random.uniform(0, 2 * self.config.lease_duration))

    def is_cut_off(self, *, is_write: bool) -> bool:
        return self.world.now < (max(self.cut_off_until, self.no_writes_until) if is_write else self.cut_off_until)

    def saw(self, stored: StoredRecord) -> None:
        """Remember what the store answered, and since when."""
        if self.seen is None or self.seen[0] != stored:
            self.seen = stored, self.world.now

    # -- in place of the shared trust and the observers ------------------------------------------------------------

    def publish(self, trust: Trust | None) -> None:
        self.published = trust

    def is_closing(self) -> bool:
        return self.closing

    def tell(self, method: str, *args: Any) -> None:
        """Stand in for the elector's Observers."""
        if self._elector_fiber is None:  # it crashes
            return
        self.world.note(self, method, args)
        if method == "started":
            self.world.rules.has_begun(self, *args)
        elif method == "stopped":
            self.world.rules.has_ended(self, *args)
            self.world.witness[f"stopped: {args[1]}"] += 1
