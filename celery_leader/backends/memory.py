"""The reference: elections in this process's memory, for tests and single-process development."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery_leader.backends.base import Admission
from celery_leader.backends.reading import Reading
from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.exceptions import RecordConflict, RecordNotFound
from celery_leader.ledger import Claim, Refusals, require_names


class MemoryLock:
    """One record behind a mutex."""

    def __init__(self, name: str = "default") -> None:
        """Make an empty place for the record of election *name*."""
        self._name = name
        self._versions = itertools.count(1)
        self._stored: StoredRecord | None = None
        self._changed = threading.Condition()
        self._changes = 0
        self._seen = threading.local()  # each waiting thread's own count of changes: electors may share a lock

    def get(self) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.get`."""
        with self._changed:
            if self._stored is None:
                raise RecordNotFound(f"{self.describe()} holds no record")
            return self._stored

    def create(self, record: ElectionRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.create`."""
        return self._swap(None, record)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.update`."""
        return self._swap(previous, record)

    def _swap(self, previous: StoredRecord | None, record: ElectionRecord) -> StoredRecord:
        with self._changed:
            if self._stored != previous:
                raise RecordConflict(f"{self.describe()} holds another record than the one to replace")
            holder = self._stored.record.holder_identity if self._stored else ""
            self._stored = StoredRecord(record, next(self._versions))
            if record.holder_identity != holder:
                self._tell()
            return self._stored

    def delete(self) -> None:
        """Forget the record, as a store does that loses its data."""
        with self._changed:
            self._stored = None

    def wait(self, timeout: float) -> None:
        """See :meth:`celery_leader.election.Lock.wait`."""
        with self._changed:
            seen = getattr(self._seen, "changes", 0)
            self._changed.wait_for(lambda: self._changes != seen, timeout)
            self._seen.changes = self._changes

    def interrupt(self) -> None:
        """See :meth:`celery_leader.election.Lock.interrupt`."""
        with self._changed:
            self._tell()

    def _tell(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def describe(self) -> str:
        """See :meth:`celery_leader.election.Lock.describe`."""
        return f"memory://{self._name}"

    def close(self) -> None:
        """See :meth:`celery_leader.election.Lock.close`."""


class MemoryLedger:
    """Claims behind a mutex."""

    def __init__(self, name: str = "default") -> None:
        """Make an empty ledger for election *name*."""
        self._refusals = Refusals(name, f"The ledger of election {name!r} in memory")
        self._mutex = threading.Lock()
        self._token: int | None = None
        self._claims: dict[str, Claim] = {}

    def open(self, token: int) -> Mapping[str, Claim]:
        """See :meth:`celery_leader.ledger.Ledger.open`."""
        with self._mutex:
            self._check(token)
            self._token = token
            reading = Reading[str]()
            for entry in self._claims:
                reading.take(entry, entry, self._claims.__getitem__, entry)
            reading.report(self._refusals.where)
            self._claims = reading.claims
            return dict(self._claims)

    def claim(self, token: int, claims: Sequence[Claim]) -> Sequence[bool]:
        """See :meth:`celery_leader.ledger.Ledger.claim`."""
        with self._mutex:
            self._check(token, must_be_open=True)
            require_names(claims)
            return [self._store_if_later(claim) for claim in claims]

    def confirm(self, token: int, claims: Iterable[Claim]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.confirm`."""
        with self._mutex:
            self._check(token, must_be_open=True)
            for claim in claims:
                stored = self._claims.get(claim.tick.entry)
                if stored and stored.tick == claim.tick:
                    self._claims[claim.tick.entry] = replace(stored, sent=True)

    def restore(self, token: int, claims: Iterable[Claim]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.restore`."""
        with self._mutex:
            self._check(token)
            claims = list(claims)
            require_names(claims)
            self._token = token
            for claim in claims:
                self._store_if_later(claim)

    def forget(self, token: int, entries: Iterable[str]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.forget`."""
        with self._mutex:
            self._check(token)
            for entry in entries:
                self._claims.pop(entry, None)

    def clear(self) -> None:
        """Forget everything, as a store does that loses its data."""
        with self._mutex:
            self._token = None
            self._claims.clear()

    def close(self) -> None:
        """See :meth:`celery_leader.ledger.Ledger.close`."""

    def _check(self, token: int, *, must_be_open: bool = False) -> None:
        self._refusals.check(token, self._token, must_be_open=must_be_open)

    def _store_if_later(self, claim: Claim) -> bool:
        stored = self._claims.get(claim.tick.entry)
        if stored and stored.tick.due_at >= claim.tick.due_at:
            return False
        self._claims[claim.tick.entry] = claim
        return True


class MemoryOnceStore:
    """Claims and notes behind a mutex."""

    _DONE = ""  # in an owner's place
    _PRUNED_EACH = 60.0

    def __init__(self) -> None:
        """Know nothing."""
        self._mutex = threading.Lock()
        self._known: dict[str, tuple[str, float]] = {}  # by task id: owner, and until when
        self._prune_at = 0.0

    def begin(self, tick: str, owner: str, seconds: float) -> Admission:
        """See :meth:`celery_leader.backends.OnceStore.begin`."""
        with self._mutex:
            held, until = self._look(tick)
            if held == self._DONE:
                return Admission(is_done=True)
            if held not in (None, owner):
                return Admission(wait=until - time.monotonic())
            self._known[tick] = (owner, time.monotonic() + seconds)
            return Admission(may_run=True)

    def done(self, tick: str, owner: str, seconds: float) -> bool:
        """See :meth:`celery_leader.backends.OnceStore.done`."""
        with self._mutex:
            held, _ = self._look(tick)
            self._known[tick] = (self._DONE, time.monotonic() + seconds)
            return held == owner

    def release(self, tick: str, owner: str) -> None:
        """See :meth:`celery_leader.backends.OnceStore.release`."""
        with self._mutex:
            if self._look(tick)[0] == owner:
                del self._known[tick]

    def close(self) -> None:
        """See :meth:`celery_leader.backends.OnceStore.close`."""

    def _look(self, tick: str) -> tuple[str | None, float]:
        """Return who has *tick* until when, None for nobody; forget now and then what has ended."""
        now = time.monotonic()
        if now >= self._prune_at:
            self._known = {known: entry for known, entry in self._known.items() if entry[1] > now}
            self._prune_at = now + self._PRUNED_EACH
        held, until = self._known.get(tick, (None, now))
        return (held, until) if until > now else (None, now)


class MemoryBackend:
    """Locks and ledgers that live as long as this object."""

    def __init__(self) -> None:
        """Make an empty store."""
        self._mutex = threading.Lock()
        self._locks: dict[str, MemoryLock] = {}
        self._ledgers: dict[str, MemoryLedger] = {}
        self._once_store = MemoryOnceStore()

    def lock(self, election: str) -> MemoryLock:
        """See :meth:`celery_leader.backends.Backend.lock`."""
        with self._mutex:
            return self._locks.setdefault(election, MemoryLock(election))

    def ledger(self, election: str) -> MemoryLedger:
        """See :meth:`celery_leader.backends.Backend.ledger`."""
        with self._mutex:
            return self._ledgers.setdefault(election, MemoryLedger(election))

    def once_store(self) -> MemoryOnceStore:
        """See :meth:`celery_leader.backends.Backend.once_store`."""
        return self._once_store

    def check(self) -> None:
        """See :meth:`celery_leader.backends.Backend.check`."""

    def describe(self) -> str:
        """See :meth:`celery_leader.backends.Backend.describe`."""
        return "memory://"


_shared: defaultdict[str, MemoryBackend] = defaultdict(MemoryBackend)


def open_memory(url: str, *, prefix: str, timeout: float, options: Mapping[str, Any]) -> MemoryBackend:
    """Return a new store for ``memory://``, and for ``memory://name`` the one of that name in this process."""
    name = url.partition("://")[2]
    return _shared[f"{prefix}{name}"] if name else MemoryBackend()
