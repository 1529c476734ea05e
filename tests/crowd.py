"""Many candidates of one election in one process, each with its thread, and their requests to the store."""

from __future__ import annotations

import bisect
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_leader.election import ElectionConfig, ElectorThread, LeaderElector, StoredRecord, SystemClock
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_leader.election import ElectionRecord, Lock, Trust

now = SystemClock().monotonic


class CountedLock:
    """A lock of which each request is noted."""

    def __init__(self, lock: Lock, requests: list[float]) -> None:
        self._lock = lock
        self._requests = requests
        self.wait, self.interrupt = lock.wait, lock.interrupt
        self.describe, self.close = lock.describe, lock.close

    def get(self) -> StoredRecord:
        self._requests.append(now())
        return self._lock.get()

    def create(self, record: ElectionRecord) -> StoredRecord:
        self._requests.append(now())
        return self._lock.create(record)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        self._requests.append(now())
        return self._lock.update(record, previous)


class Crowd:
    """Candidates, their requests and their trusts, with the moments (seconds of the boot-time clock) of both."""

    def __init__(self, locks: Iterable[Lock], *, name: str = "c", **durations: float) -> None:
        """Make a candidate on each of *locks*; *name* begins their identities."""
        self.requests: list[float] = []
        self.trusts: list[tuple[float, int, float]] = []
        self.threads = [
            self._candidate(CountedLock(lock, self.requests), f"{name}{number}", durations)
            for number, lock in enumerate(locks)
        ]

    def _candidate(self, lock: Any, identity: str, durations: dict[str, float]) -> ElectorThread:
        last: list[int] = []

        def publish(trust: Trust | None) -> None:
            if trust:
                last[:] = [trust.term.fencing_token]
            self.trusts.append((now(), last[0], trust.until if trust else 0.0))

        return ElectorThread(LeaderElector(ElectionConfig("default", identity, **durations), lock, publish=publish))

    def start(self) -> None:
        """Let all contend."""
        for thread in self.threads:
            thread.start()

    def know(self) -> set[str]:
        """Return the leaders that the candidates know; empty text stands for none."""
        return {thread.elector.get_leader() for thread in self.threads}

    def leader(self) -> ElectorThread | None:
        """Return the thread of the leader."""
        return next((thread for thread in self.threads if thread.elector.is_leader()), None)

    def stop_leader(self, *, silently: bool = False) -> float:
        """Stop and forget the leader; return when its trust ended.

        Args:
            silently: Without a release, like a machine that died.
        """
        leader = eventually(self.leader)
        leader.elector.config = replace(leader.elector.config, release_on_cancel=not silently)
        before = now()
        assert leader.stop(20)
        self.threads.remove(leader)
        ends = [at for at, _, until in self.trusts if not until and at >= before]
        return ends[-1] if ends else before

    def stop(self) -> None:
        """Stop all, the leader last, so that nobody takes over."""
        for thread in sorted(self.threads, key=lambda each: each.elector.is_leader()):
            thread.stop(0)
        for thread in self.threads:
            assert thread.stop(20)


def count(requests: Iterable[float], since: float, until: float) -> int:
    """Return how many of *requests* were made between two moments."""
    ordered = sorted(requests)
    return bisect.bisect_left(ordered, until) - bisect.bisect_left(ordered, since)


def terms(trusts: Iterable[tuple[float, int, float]]) -> list[tuple[float, float, int]]:
    """Return when each term's trust began and ended, and its token, in order of the beginning."""
    begun: dict[int, float] = {}
    ended: dict[int, float] = {}
    for at, token, until in sorted(trusts):
        begun.setdefault(token, at)
        ended[token] = until or at
    return sorted((begin, ended[token], token) for token, begin in begun.items())


def next_term(trusts: Iterable[tuple[float, int, float]], after: float) -> float | None:
    """Return when the first term that began later than *after* began."""
    return next((begin for begin, _, _ in terms(trusts) if begin > after), None)


def most_at_once(trusts: Iterable[tuple[float, int, float]]) -> int:
    """Return how many trusted themselves at one moment, at most."""
    all_terms = terms(trusts)
    return max((sum(begin <= at < end for begin, end, _ in all_terms) for at, _, _ in all_terms), default=0)


def pause(seconds: float) -> None:
    """Let the crowd go on for a while, to measure its requests in that time."""
    time.sleep(seconds)
