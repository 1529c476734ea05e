# ruff: noqa: E501  # a case is a line
"""What a candidate does in each situation, a line a case: K, FP after client-go, RV after River, N our own.

A case is a list of attempts. Each says how long to wait before it, what the store answers to each call, in order (a
call that is not listed fails the case), and whether the attempt succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_leader.election import ElectionConfig, ElectionRecord, LeaderElector, StopReason, StoredRecord, Term
from celery_leader.exceptions import LockUnavailable, RecordConflict, RecordDamaged, RecordNotFound
from celery_leader.testing import FakeClock, ScriptedLock

if TYPE_CHECKING:
    from collections.abc import Callable

ME, BING = "baz/1/a", "bing/2/b"
LEASE, DEADLINE, RETRY = 10.0, 6.0, 2.0


class Attempt(NamedTuple):
    """One attempt, after *wait* seconds."""

    wait: float
    store: list[tuple[str, Any]]
    wins: bool


@dataclass(frozen=True)
class Case:
    """A situation, and what comes of it."""

    name: str
    attempts: list[Attempt]
    leads: bool
    holder: str  #: whom the candidate believes to hold the lease in the end
    transitions: int | None = None
    told: list[str] = field(default_factory=list)  #: all that an observer hears


class Heard:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.terms: list[Term] = []

    def started(self, term: Term) -> None:
        self.calls.append("started")
        self.terms.append(term)

    def stopped(self, term: Term, reason: StopReason) -> None:
        assert term == self.terms[-1]
        self.calls.append(f"stopped: {reason}")

    def new_leader(self, identity: str) -> None:
        self.calls.append(f"leader: {NAMES.get(identity, identity)}")


NAMES = {ME: "me", BING: "bing", "": "nobody"}

# -- what a store answers ----------------------------------------------------------------------------------------

NONE = RecordNotFound("none")
DOWN = LockUnavailable("timeout")
DAMAGED = RecordDamaged("not JSON")
CONFLICT = RecordConflict("changed")
OK = ScriptedLock.STORED
LOST = "the write happens, its reply does not come"
KEPT = "what the last write stored"
AS_BEFORE = "what was stored before the last write"


def slow(seconds: float) -> tuple[str, float]:
    """Store, and answer after *seconds*."""
    return ("slow", seconds)


def held(by: str = BING, *, lease: float = LEASE, token: int = 5, version: int = 100) -> StoredRecord:
    """Return a record as the store holds it."""
    return StoredRecord(ElectionRecord(by, lease, leader_transitions=1, fencing_token=token), version)


def get(answer: Any) -> tuple[str, Any]:
    return ("get", answer)


def create(answer: Any) -> tuple[str, Any]:
    return ("create", answer)


def update(answer: Any) -> tuple[str, Any]:
    return ("update", answer)


class Stage:
    """An elector, its clock, its scripted store and its observer."""

    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        self.heard = Heard()
        self.lock = ScriptedLock([])
        timing = {"lease_duration": LEASE, "renew_deadline": DEADLINE, "retry_period": RETRY, **config}
        self.config = ElectionConfig("default", ME, **timing)
        self.elector = LeaderElector(self.config, self.lock, clock=self.clock, observers=[self.heard])
        self._written: list[StoredRecord] = []

    def expect(self, *calls: tuple[str, Any]) -> None:
        """Let these calls come next, and no others."""
        self.lock.script = [(method, self._answer(answer)) for method, answer in calls]

    def attempt(self, *calls: tuple[str, Any], wait: float = 0.0) -> bool:
        """Make one attempt that must call exactly these."""
        self.clock.advance(wait)
        self.expect(*calls)
        won = self.elector.try_acquire_or_renew()
        self.lock.assert_done()
        return won

    def release(self, *calls: tuple[str, Any]) -> bool:
        """Release, which must call exactly these."""
        self.expect(*calls)
        released = self.elector.release()
        self.lock.assert_done()
        return released

    def told(self) -> list[str]:
        """Return all that the observer heard until now."""
        assert self.elector.join_observers(5)
        return self.heard.calls

    @property
    def written(self) -> ElectionRecord:
        """The last record that was written."""
        return self._written[-1].record

    def _answer(self, answer: Any) -> Any:
        if answer is OK:
            return self._store
        if answer is LOST:
            return self._lose
        if answer is KEPT:
            return lambda: self._written[-1]
        if answer is AS_BEFORE:
            return lambda: self._written[-2 if len(self._written) > 1 else -1]
        if isinstance(answer, tuple):
            return lambda *args: (self.clock.advance(answer[1]), self._store(*args))[1]
        return answer

    def _store(self, record: ElectionRecord, previous: StoredRecord | None = None) -> StoredRecord:
        self._written.append(StoredRecord(record, len(self._written) + 1))
        return self._written[-1]

    def _lose(self, record: ElectionRecord, previous: StoredRecord | None = None) -> StoredRecord:
        self._store(record)
        raise LockUnavailable("timeout")


def play(case: Case) -> None:
    """Play *case*; raise AssertionError where it goes otherwise."""
    stage = Stage()
    for number, attempt in enumerate(case.attempts, 1):
        won = stage.attempt(*attempt.store, wait=attempt.wait)
        assert won == attempt.wins, f"attempt {number} {'succeeded' if won else 'failed'}"
    elector = stage.elector
    assert elector.is_leader() == case.leads
    assert elector.get_leader() == case.holder
    if case.transitions is not None:
        assert elector.observed_record is not None
        assert elector.observed_record.leader_transitions == case.transitions
    assert stage.told() == case.told
    tokens = [term.fencing_token for term in stage.heard.terms]
    assert tokens == sorted(set(tokens)), "tokens grow with every term"


BLANK = StoredRecord(ElectionRecord(leader_transitions=1), 100)
RELEASED = StoredRecord(replace(BLANK.record, lease_duration=1.0, fencing_token=9), 100)
LEAD = Attempt(0, [get(NONE), create(OK)], wins=True)
BEGUN = ["started", "leader: me"]
GONE = [*BEGUN, "stopped: lost", "leader: bing"]
LATE = [*BEGUN, "stopped: expired"]

# fmt: off
CASES = [
    Case("K1 no record: create it", [LEAD], leads=True, holder=ME, transitions=0, told=BEGUN),
    Case("K2 record without election data", [Attempt(0, [get(BLANK), update(OK)], True)], leads=True, holder=ME, transitions=2, told=BEGUN),
    Case("K3 lease of 3 s in the record, of 10 s in the config", [Attempt(0, [get(held(lease=3))], False), Attempt(3, [get(held(lease=3)), update(OK)], True)], leads=True, holder=ME, transitions=2, told=["leader: bing", "started", "leader: me"]),
    Case("K3b lease of 30 s in the record, of 10 s in the config", [Attempt(0, [get(held(lease=30))], False), Attempt(29, [get(held(lease=30))], False)], leads=False, holder=BING, told=["leader: bing"]),
    Case("K4 released: take it at once", [Attempt(0, [get(RELEASED), update(OK)], True)], leads=True, holder=ME, transitions=2, told=BEGUN),
    Case("K5 unchanged for a lease: take it", [Attempt(0, [get(held())], False), Attempt(10, [get(held()), update(OK)], True)], leads=True, holder=ME, transitions=2, told=["leader: bing", "started", "leader: me"]),
    Case("K5b unchanged for almost a lease: leave it", [Attempt(0, [get(held())], False), Attempt(9.99, [get(held())], False)], leads=False, holder=BING, told=["leader: bing"]),
    Case("K5c renewed meanwhile, with equal values: leave it", [Attempt(0, [get(held())], False), Attempt(9, [get(held(version=101))], False), Attempt(9, [get(held(version=101))], False)], leads=False, holder=BING, told=["leader: bing"]),
    Case("K6 released, seen a moment ago: take it", [Attempt(0, [get(held())], False), Attempt(0.1, [get(RELEASED), update(OK)], True)], leads=True, holder=ME, told=["leader: bing", "started", "leader: me"]),
    Case("K7 held by another: leave it", [Attempt(0, [get(held())], False)], leads=False, holder=BING, transitions=1, told=["leader: bing"]),
    Case("K8 renew mine", [LEAD, Attempt(2, [update(OK)], True)], leads=True, holder=ME, transitions=0, told=BEGUN),
    Case("K9 somebody else is faster to create", [Attempt(0, [get(NONE), create(CONFLICT)], False), Attempt(2, [get(held())], False)], leads=False, holder=BING, told=["leader: bing"]),
    Case("K10 somebody else is faster to take over", [Attempt(0, [get(RELEASED), update(CONFLICT)], False), Attempt(2, [get(held())], False)], leads=False, holder=BING, told=["leader: bing"]),
    Case("FP1 renewals read nothing", [LEAD, Attempt(2, [update(OK)], True), Attempt(2, [update(OK)], True)], leads=True, holder=ME, transitions=0, told=BEGUN),
    Case("FP2 a conflict with my own write: look, renew", [LEAD, Attempt(2, [update(CONFLICT), get(KEPT), update(OK)], True), Attempt(2, [update(OK)], True)], leads=True, holder=ME, transitions=0, told=BEGUN),
    Case("FP3 client of Python: renewed twice, then refused", [LEAD, Attempt(2, [update(OK)], True), Attempt(2, [update(OK)], True), Attempt(2, [update(CONFLICT), get(held())], False)], leads=False, holder=BING, told=GONE),
    Case("RV6 my name, another term: lost", [LEAD, Attempt(2, [update(CONFLICT), get(held(ME, token=2**50))], False)], leads=False, holder=ME, told=[*BEGUN, "stopped: lost"]),
    Case("RV7 renewals fail until the trust is over", [LEAD, *[Attempt(2, [update(DOWN), get(DOWN)], False)] * 2, Attempt(2, [get(DOWN)], False)], leads=False, holder=ME, told=LATE),
    Case("RV7b one renewal of two fails: leads on", [LEAD, Attempt(2, [update(DOWN), get(DOWN)], False), Attempt(2, [update(OK)], True)], leads=True, holder=ME, told=BEGUN),
    Case("RV8 renewed, but the answer comes after the trust it gives", [LEAD, Attempt(2, [update(slow(6))], False)], leads=False, holder=ME, told=LATE),
    Case("RV9 trust over at entry: no renewal, my own record waits out its lease", [LEAD, Attempt(6, [get(KEPT)], False), Attempt(3.9, [get(KEPT)], False), Attempt(0.1, [get(KEPT), update(OK)], True)], leads=True, holder=ME, transitions=1, told=[*LATE, "started"]),
    Case("N1 no answer is not 'not found'", [Attempt(0, [get(DOWN)], False)], leads=False, holder=""),
    Case("N1b a damaged record is left as it is", [Attempt(0, [get(DAMAGED)], False)], leads=False, holder=""),
    Case("N1c no answer: what was seen goes on ageing", [Attempt(0, [get(held())], False), Attempt(8, [get(DOWN)], False), Attempt(2, [get(held()), update(OK)], True)], leads=True, holder=ME, told=["leader: bing", "started", "leader: me"]),
    Case("N2 created, reply lost: read back", [Attempt(0, [get(NONE), create(LOST), get(KEPT)], True)], leads=True, holder=ME, told=BEGUN),
    Case("N2b renewed, reply lost: read back", [LEAD, Attempt(2, [update(LOST), get(KEPT)], True)], leads=True, holder=ME, told=BEGUN),
    Case("N2c renewal not stored: read back, no success", [LEAD, Attempt(2, [update(DOWN), get(KEPT)], False), Attempt(5, [get(KEPT)], False)], leads=False, holder=ME, told=LATE),
    Case("N2d created, reply lost, no read-back: known at the next attempt", [Attempt(0, [get(NONE), create(LOST), get(DOWN)], False), Attempt(2, [get(KEPT), update(OK)], True)], leads=True, holder=ME, told=BEGUN),
    Case("N2e takeover without an answer, another won", [Attempt(0, [get(RELEASED), update(DOWN), get(held())], False)], leads=False, holder=BING, told=["leader: bing"]),
    Case("N2f takeover without an answer, nothing stored", [Attempt(0, [get(RELEASED), update(DOWN), get(RELEASED)], False), Attempt(2, [get(RELEASED), update(OK)], True)], leads=True, holder=ME, told=BEGUN),
    Case("N2g renewal without an answer, another took over: lost", [LEAD, Attempt(2, [update(DOWN), get(held())], False)], leads=False, holder=BING, told=GONE),
    Case("N2h an earlier renewal without an answer is no success of this one", [LEAD, Attempt(2, [update(LOST), get(DOWN)], False), Attempt(2, [update(LOST), get(AS_BEFORE)], False), Attempt(2, [get(AS_BEFORE)], False)], leads=False, holder=ME, told=LATE),
    Case("N3 first success comes too late to count", [Attempt(0, [get(NONE), create(slow(6))], False)], leads=False, holder=ME, told=["leader: me"]),
    Case("N4 my name and another token, then its lease is over: a new term", [LEAD, Attempt(2, [update(CONFLICT), get(held(ME, token=2**50))], False), Attempt(10, [get(held(ME, token=2**50)), update(OK)], True)], leads=True, holder=ME, transitions=2, told=[*BEGUN, "stopped: lost", "started"]),
    Case("N4b a record in my name that I never wrote: a stranger's", [Attempt(0, [get(held(ME))], False)], leads=False, holder=ME, told=["leader: me"]),
    Case("N6 vanished while I lead: put back, same term", [LEAD, Attempt(2, [update(CONFLICT), get(NONE), create(OK)], True)], leads=True, holder=ME, transitions=0, told=BEGUN),
    Case("N6b vanished, and I know of a live lease: wait it out", [Attempt(0, [get(held())], False), Attempt(2, [get(NONE)], False), Attempt(7.9, [get(NONE)], False), Attempt(0.1, [get(NONE), create(OK)], True)], leads=True, holder=ME, transitions=2, told=["leader: bing", "started", "leader: me"]),
    Case("N6c vanished after my trust: my own lease is waited out too", [LEAD, Attempt(6, [get(NONE)], False), Attempt(4, [get(NONE), create(OK)], True)], leads=True, holder=ME, transitions=1, told=[*LATE, "started"]),
    Case("N6d vanished while I lead, another was faster", [LEAD, Attempt(2, [update(CONFLICT), get(NONE), create(CONFLICT)], False), Attempt(2, [update(CONFLICT), get(held())], False)], leads=False, holder=BING, told=GONE),
    Case("N6e vanished after a release: vacant", [Attempt(0, [get(RELEASED), update(CONFLICT)], False), Attempt(2, [get(NONE), create(OK)], True)], leads=True, holder=ME, told=BEGUN),
    Case("N8 paused for three leases: out of office before the first look", [LEAD, Attempt(30, [get(held())], False)], leads=False, holder=BING, told=[*LATE, "leader: bing"]),
    Case("N13 an old backup: what it names is another's live lease", [LEAD, Attempt(2, [update(CONFLICT), get(held(token=1))], False), Attempt(10, [get(held(token=1)), update(OK)], True)], leads=True, holder=ME, told=[*GONE, "started", "leader: me"]),
]
# fmt: on


def play_all(report: Callable[[str], None]) -> None:
    """Play all; *report* the name of each case that fails."""
    for case in CASES:
        try:
            play(case)
        except Exception:  # noqa: BLE001  # whatever a mutant does is a failure
            report(case.name)
