"""Listening, whatever the store does to it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from celery_leader.backends import hints
from celery_leader.backends.hints import Hints, Listener
from celery_leader.exceptions import LockUnavailable
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Refused(Listener):
    """A store that lets nobody subscribe."""

    def __init__(self, error: Exception) -> None:
        self.attempts: list[float] = []
        self.error = error
        super().__init__(Hints(), "nothing")

    @contextmanager
    def subscription(self) -> Iterator[Callable[[float], list[str]]]:
        self.attempts.append(time.monotonic())
        raise self.error
        yield


@pytest.mark.parametrize("error", [LockUnavailable("down"), RuntimeError("bug")], ids=repr)
def test_a_store_without_subscriptions_is_asked_ever_less(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The thread goes on, and the pauses grow up to a limit."""
    monkeypatch.setattr(hints, "RESUBSCRIBE_DELAY", 0.01)
    monkeypatch.setattr(hints, "MAX_RESUBSCRIBE_DELAY", 0.4)
    listener = Refused(error)
    eventually(lambda: len(listener.attempts) >= 8)
    listener.stop()
    pauses = [later - earlier for earlier, later in zip(listener.attempts, listener.attempts[1:], strict=False)]
    assert pauses[0] < 0.1
    assert min(pauses[5:]) >= 0.2
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "celery-leader-listener"])


def test_news_of_who_is_known_end_no_wait() -> None:
    """Somebody else does."""
    known = Hints()
    known.seen("a")
    known.heard("a")
    begun = time.monotonic()
    known.wait(0.1)
    assert time.monotonic() - begun >= 0.1
    known.heard("")
    known.wait(30)
    known.interrupt()
    known.wait(30)
    assert time.monotonic() - begun < 10
