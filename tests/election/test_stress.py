"""Threads."""

from __future__ import annotations

import threading

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import ElectionConfig, ElectorThread, LeaderElector
from tests.election.running import FAST
from tests.waiting import eventually


def test_start_stop_stress() -> None:
    """Forty candidates come and go from eight threads over one lock: one leader at a time, nothing left (RV15)."""
    lock = MemoryLock()
    living: set[ElectorThread] = set()
    mutex = threading.Lock()
    overlaps: list[list[str]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            with mutex:
                candidates = list(living)
            first = [t for t in candidates if t.elector.is_leader()]
            if len(first) > 1:  # one may have handed over between two looks: ask in the other direction too
                still = [t for t in reversed(first) if t.elector.is_leader()]
                if len(still) > 1:
                    overlaps.append([t.elector.config.identity for t in still])

    def come_and_go(number: int) -> None:
        for turn in range(5):
            elector = LeaderElector(ElectionConfig("default", f"{number}/{turn}", **FAST), lock)
            thread = ElectorThread(elector)
            with mutex:
                living.add(thread)
            thread.start()
            thread.wake()
            eventually(lambda elector=elector: elector.get_leader(), interval=0.001)
            thread.drain()
            assert thread.stop(20)
            with mutex:
                living.discard(thread)

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=come_and_go, args=(number,)) for number in range(8)]
    for worker in [watcher, *workers]:
        worker.start()
    for worker in workers:
        worker.join(60)
    done.set()
    watcher.join(10)
    assert overlaps == []
    assert living == set()
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("celery-leader")])
