"""A stage for one candidate: an elector, its clock, a store that answers by script, an observer that remembers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery_leader.election import ElectionConfig, ElectionRecord, LeaderElector, StopReason, StoredRecord, Term
from celery_leader.exceptions import RecordConflict, RecordDamaged, RecordNotFound, StoreUnavailable
from celery_leader.testing import FakeClock, ScriptedLock

ME, BING = "baz/1/a", "bing/2/b"
LEASE, DEADLINE, RETRY = 10.0, 6.0, 2.0


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
DOWN = StoreUnavailable("timeout")
DAMAGED = RecordDamaged("not JSON")
CONFLICT = RecordConflict("changed")
OK = ScriptedLock.STORED
LOST = "the write happens, its reply does not come"
KEPT = "what the last write stored"
AS_BEFORE = "what was stored before the last write"

# -- what an observer hears --------------------------------------------------------------------------------------

BEGUN = ["started", "leader: me"]
GONE = [*BEGUN, "stopped: lost", "leader: bing"]
LATE = [*BEGUN, "stopped: expired"]


def slow(seconds: float) -> tuple[str, float]:
    """Store, and answer after *seconds*."""
    return ("slow", seconds)


def held(
    by: str = BING,
    *,
    lease: float = LEASE,
    token: int = 5,
    version: int = 100,
    clock: float | None = None,
    deployment: str = "",
) -> StoredRecord:
    """Return a record as the store holds it, renewed when its holder's wall clock was *clock* seconds ahead of ours."""
    renewed = None if clock is None else FakeClock().utcnow() + timedelta(seconds=clock)
    record = ElectionRecord(by, lease, None, renewed, leader_transitions=1, fencing_token=token, deployment=deployment)
    return StoredRecord(record, version)


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
        raise StoreUnavailable("timeout")
