"""Doubles for tests: a fake clock, a scripted lock, and a process that leads without a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from celery_leader.election import ElectionRecord, StoredRecord, SystemClock, Term, Trust, new_identity
from celery_leader.leadership.shared_trust import SharedTrust
from celery_leader.leadership.state import registered


class FakeClock:
    """A clock that moves only by :meth:`advance`, which moves monotonic and wall time, and :meth:`step_wall`."""

    def __init__(self, start: float = 1000.0, now: datetime | None = None) -> None:
        """Start at *start* monotonic seconds and the wall time *now* (2026-01-01 UTC when omitted)."""
        self._monotonic = start
        self._now = now or datetime(2026, 1, 1, tzinfo=timezone.utc)

    def monotonic(self) -> float:
        """See :meth:`celery_leader.election.Clock.monotonic`."""
        return self._monotonic

    def utcnow(self) -> datetime:
        """See :meth:`celery_leader.election.Clock.utcnow`."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock *seconds* ahead, or back if negative, as an administrator or NTP does."""
        self._now += timedelta(seconds=seconds)


class ScriptedLock:
    """A lock that answers as scripted, call by call, and refuses any call that is not in the script.

    A script is a list of (method, answer). An answer is a value to return, an exception to raise, or a callable, which
    receives the arguments of the call and returns or raises. ``ScriptedLock.STORED`` answers a write with the record
    that was written.
    """

    STORED = object()

    def __init__(self, script: Iterable[tuple[str, Any]]) -> None:
        """Take the script."""
        self.script = list(script)
        self.calls: list[str] = []

    def get(self) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.get`."""
        return self._answer("get")

    def create(self, record: ElectionRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.create`."""
        return self._answer("create", record)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.update`."""
        return self._answer("update", record, previous)

    def wait(self, timeout: float) -> None:
        """See :meth:`celery_leader.election.Lock.wait`."""

    def interrupt(self) -> None:
        """See :meth:`celery_leader.election.Lock.interrupt`."""

    def describe(self) -> str:
        """See :meth:`celery_leader.election.Lock.describe`."""
        return "script"

    def close(self) -> None:
        """See :meth:`celery_leader.election.Lock.close`."""

    def assert_done(self) -> None:
        """Fail when part of the script was not called."""
        assert not self.script, f"never called: {self.script}"

    def _answer(self, method: str, *arguments: Any) -> StoredRecord:
        self.calls.append(method)
        assert self.script, f"{method}() is not in the script, which has ended; calls so far: {self.calls}"
        expected, answer = self.script.pop(0)
        assert expected == method, f"expected {expected}(), got {method}(); calls so far: {self.calls}"
        if answer is self.STORED:
            return StoredRecord(arguments[0], len(self.calls))
        if isinstance(answer, BaseException):
            raise answer
        result: StoredRecord = answer(*arguments) if callable(answer) else answer
        return result


@contextmanager
def forced_leader(election: str = "default", *, fencing_token: int = 1) -> Iterator[Term]:
    """Let this process lead *election* inside the block, without a worker or a store: for tests of applications.

    Args:
        election: The only election in which this process takes part inside the block.
        fencing_token: The token of the term.
    """
    term = Term(election, new_identity("forced"), fencing_token)
    now = SystemClock().monotonic()
    shared_trust = SharedTrust.create()
    shared_trust.publish(Trust(term, renewed_at=now, until=now + 3600))
    shared_trust.publish_leader(term.identity)
    with registered({election: shared_trust}):
        yield term
