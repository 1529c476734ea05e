"""Elector threads that are stopped in the end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_leader.election import ElectionConfig, ElectorThread, LeaderElector
from tests.election.running import SLOW, Harmful
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ElectorThread]]:
    """A maker of started threads, all of which are stopped in the end; none is left over.

    Whatever a leader must do at once it may not do by its poll: the next one is half a minute away.
    """
    monkeypatch.setattr("celery_leader.election.thread.LOOK_PERIOD", 30.0)
    made: list[ElectorThread] = []
    before = set(threading.enumerate())

    def make(
        lock: Any, name: str = "a", *, observers: Any = (), timing: dict[str, float] = SLOW, **options: Any
    ) -> ElectorThread:
        elector = LeaderElector(ElectionConfig("default", name, **timing), lock, observers=observers)
        thread = ElectorThread(elector, **options)
        made.append(thread)
        thread.start()
        return thread

    yield make
    for thread in made:
        lock = thread.elector.lock
        if isinstance(lock, Harmful):
            lock.error = None
            lock.gate.set()
    for thread in made:
        assert thread.stop(10)
    eventually(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("celery-leader")])
