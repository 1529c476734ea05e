"""Candidates under calls from many threads, and the record of their trust for the verdict."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import Candidacy, ElectionConfig, ElectorThread, LeaderElector, SystemClock
from celery_leader.exceptions import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_leader.election import ElectionRecord, StopReason, StoredRecord, Term, Trust

ELECTIONS = ("a", "b")
PLACES = 4  #: candidates that contend in each election at any time
TIMING = {"lease_duration": 0.6, "renew_deadline": 0.4, "retry_period": 0.04}
CLOCK = SystemClock()


class Unsteady:
    """A way to a shared store on which calls are slow, fail, happen without an answer, or all fail for a while."""

    def __init__(self, lock: MemoryLock, source: random.Random) -> None:
        self._lock = lock
        self._random = source
        self.wait, self.interrupt, self.describe, self.close = lock.wait, lock.interrupt, lock.describe, lock.close
        self._cut_off_until = 0.0
        self.written = 0.0  #: when the last write happened, or a moment later

    def get(self) -> StoredRecord:
        return self._suffer(self._lock.get)

    def create(self, record: ElectionRecord) -> StoredRecord:
        return self._suffer(lambda: self._write(self._lock.create(record)))

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        return self._suffer(lambda: self._write(self._lock.update(record, previous)))

    def cut_off(self) -> None:
        """Let all calls fail for two leases: longer than any trust or wait for a takeover."""
        self._cut_off_until = CLOCK.monotonic() + 2 * TIMING["lease_duration"]

    def _write(self, stored: StoredRecord) -> StoredRecord:
        self.written = CLOCK.monotonic()
        return stored

    def _suffer(self, call: Callable[[], StoredRecord]) -> StoredRecord:
        fate = self._random.random()
        time.sleep(self._random.uniform(0, 0.003))
        if fate < 0.05 or CLOCK.monotonic() < self._cut_off_until:
            raise StoreUnavailable("lost on the way")
        answer = call()
        if fate < 0.10:
            raise StoreUnavailable("lost on the way back")
        if fate > 0.97:  # longer than the trust that it gives, and perhaps than the lease
            time.sleep(self._random.uniform(0.4, 1.2))
        return answer


class Observed:
    """An observer that remembers its calls, and may sleep before or fail after."""

    def __init__(self, before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._before, self._after = before, after

    def started(self, term: Term) -> None:
        self._remember("started", term)

    def stopped(self, term: Term, reason: StopReason) -> None:
        self._remember("stopped", term, str(reason))

    def new_leader(self, identity: str) -> None:
        self._remember("new_leader", identity)

    def _remember(self, *call: Any) -> None:
        self._before()
        self.calls.append(call)
        self._after()


def _fail() -> None:
    raise RuntimeError("an observer's bug")


@dataclass
class Span:
    """For how long a candidate trusted itself in one term, rather a moment too long than too short."""

    identity: str
    token: int
    begun: float
    ended: float


class Candidate:
    """One candidate, from its first start to its stop, and the spans of its trust."""

    def __init__(self, election: str, identity: str, lock: MemoryLock, source: random.Random) -> None:
        self.election = election
        self.candidacy = Candidacy.CONTEND
        self.busy = threading.Event()
        self.spans: list[Span] = []
        self.heard, self.raising = Observed(), Observed(after=_fail)
        self.slow = Observed(before=lambda: time.sleep(source.choice([0, 0.1])))
        self.lock = Unsteady(lock, source)
        self.elector = LeaderElector(
            ElectionConfig(election, identity, **TIMING),
            self.lock,
            observers=[self.heard, self.slow, self.raising],
            publish=self._publish,
        )
        self.thread = ElectorThread(self.elector, candidacy=lambda: self.candidacy, is_busy=self.busy.is_set)

    def _publish(self, trust: Trust | None) -> None:
        if trust is None:
            self.spans[-1].ended = min(self.spans[-1].ended, CLOCK.monotonic())
        elif self.spans and self.spans[-1].token == trust.term.fencing_token:
            self.spans[-1].ended = trust.until
        else:
            term = trust.term
            self.spans.append(Span(term.identity, term.fencing_token, self.lock.written, trust.until))


class Stress:
    """Some candidates of each election; a new one follows each that was stopped."""

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._locks = {election: MemoryLock(election) for election in ELECTIONS}
        self._numbers = count()
        self._mutex = threading.Lock()
        self.candidates: list[Candidate] = []
        self._places = [self._newcomer(election) for election in ELECTIONS for _ in range(PLACES)]
        self.calls: Counter[str] = Counter()
        self.longest: defaultdict[str, float] = defaultdict(float)  #: seconds of the longest call of each kind
        self.most_threads = 0
        self.errors: list[BaseException] = []
        self.overlaps: list[list[Term]] = []
        #: The calls to a candidate, and their relative frequencies.
        self.actions: dict[str, tuple[float, Callable[[Candidate], object]]] = {
            "start": (20, lambda candidate: candidate.thread.start()),
            "wake": (25, lambda candidate: candidate.thread.wake()),
            "ask": (25, self._ask),
            "resign": (3, lambda candidate: candidate.thread.resign()),
            "pause": (0.5, lambda candidate: setattr(candidate, "candidacy", Candidacy.HOLD)),
            "observe": (0.1, lambda candidate: setattr(candidate, "candidacy", Candidacy.OBSERVE)),
            "resume": (20, lambda candidate: setattr(candidate, "candidacy", Candidacy.CONTEND)),
            "work": (1, lambda candidate: candidate.busy.set()),
            "rest": (10, lambda candidate: candidate.busy.clear()),
            "drain": (0.1, lambda candidate: candidate.thread.drain()),
            "stop": (0.4, lambda candidate: candidate.thread.stop(0)),
        }

    def harass(self, seed: int, end: float) -> None:
        """Make one random call after another to random candidates, until *end*."""
        source = random.Random(seed)
        names, weights = list(self.actions), [weight for weight, _ in self.actions.values()]
        try:
            while time.monotonic() < end:
                (name,) = source.choices(names, weights)
                self._do(name, source.randrange(len(self._places)))
                time.sleep(source.uniform(0, 0.02))
        except BaseException as error:  # noqa: BLE001  # the test shows it
            self.errors.append(error)

    def cut_off_leaders(self, end: float) -> None:
        """Take its store from each leader now and then, until *end*."""
        while time.monotonic() < end:
            for candidate in self._places:
                if candidate.elector.is_leader():
                    candidate.lock.cut_off()
            time.sleep(1.0)

    def watch(self, end: float) -> None:
        """Ask all whether they lead, over and over, until *end*; keep the terms of any two that do so at once.

        Who says so before and after another does, in one term, did so meanwhile.
        """
        while time.monotonic() < end:
            for election in ELECTIONS:
                asked = [candidate.elector for candidate in self.candidates if candidate.election == election]
                first = [(elector, elector.term) for elector in asked]
                still = [term for elector, term in reversed(first) if term and elector.term == term]
                if len(still) > 1:
                    self.overlaps.append(still)
            time.sleep(0.001)

    def _do(self, name: str, place: int) -> None:
        candidate = self._places[place]
        begun = time.monotonic()
        try:
            self.actions[name][1](candidate)
        except RuntimeError as refusal:
            if "make a new one" not in str(refusal):  # another caller stopped it a moment ago
                raise
        took = time.monotonic() - begun
        with self._mutex:
            self.calls[name] += 1
            self.longest[name] = max(self.longest[name], took)
            self.most_threads = max(self.most_threads, threading.active_count())
            if name == "stop" and self._places[place] is candidate:
                self._places[place] = self._newcomer(candidate.election)

    def _newcomer(self, election: str) -> Candidate:
        source = random.Random(self._random.random())
        candidate = Candidate(election, f"c{next(self._numbers)}", self._locks[election], source)
        self.candidates.append(candidate)
        return candidate

    def _ask(self, candidate: Candidate) -> None:
        elector = candidate.elector
        elector.is_leader(), elector.term, elector.get_leader(), elector.check(60)

    def report(self) -> str:
        """Return the counts in one line."""
        terms = [span for candidate in self.candidates for span in candidate.spans]
        slowest = max(self.longest, key=lambda name: self.longest[name])
        return (
            f"{sum(self.calls.values())} calls {dict(self.calls)}, {len(self.candidates)} candidates, "
            f"{len(terms)} terms, at most {self.most_threads} threads, "
            f"slowest call {slowest} {self.longest[slowest] * 1000:.0f} ms"
        )
