"""Real electors on real threads: their timings, and locks in memory on which a test can play."""

from __future__ import annotations

import threading
from collections.abc import Callable

from celery_leader.backends.memory import MemoryLock
from celery_leader.election import ElectionRecord, ElectorThread, StoredRecord

#: Makes, starts and in the end stops an elector's thread: the fixture `threads`.
Make = Callable[..., ElectorThread]

#: Long enough that nothing in these tests happens by a poll or by expiry, where it should happen at once.
SLOW = {"lease_duration": 60.0, "renew_deadline": 40.0, "retry_period": 10.0}
FAST = {"lease_duration": 0.9, "renew_deadline": 0.6, "retry_period": 0.05}


class Harmful(MemoryLock):
    """A memory lock on which a test can play."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.gated = {"get", "create", "update"}  #: which calls stop at the gate while it is closed
        self.stopped_in = ""
        self.calls: list[str] = []

    def get(self) -> StoredRecord:
        self._suffer("get")
        return super().get()

    def create(self, record: ElectionRecord) -> StoredRecord:
        self._suffer("create")
        return super().create(record)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        self._suffer("update")
        return super().update(record, previous)

    def _suffer(self, name: str) -> None:
        self.calls.append(name)
        if name in self.gated and not self.gate.is_set():
            self.stopped_in = name
            assert self.gate.wait(30)
            self.stopped_in = ""
        if self.error:
            raise self.error


def holder(lock: MemoryLock) -> str:
    return MemoryLock.get(lock).record.holder_identity


def leads(thread: ElectorThread) -> Callable[[], bool]:
    return thread.elector.is_leader
