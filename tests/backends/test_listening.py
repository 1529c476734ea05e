"""Listening, whatever the store does to it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from celery_leader.backends import listening
from celery_leader.backends.listening import Listener, Notifications
from celery_leader.exceptions import StoreUnavailable
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Refused(Listener):
    """A store that lets nobody subscribe."""

    def __init__(self, error: Exception) -> None:
        self.attempts: list[float] = []
        self.error = error
        super().__init__(Notifications(), "nothing")

    @contextmanager
    def subscription(self) -> Iterator[Callable[[float], list[str]]]:
        self.attempts.append(time.monotonic())
        raise self.error
        yield


@pytest.mark.parametrize("error", [StoreUnavailable("down"), RuntimeError("bug")], ids=repr)
def test_a_store_without_subscriptions_is_asked_ever_less(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The thread goes on, and the pauses grow up to a limit."""
    monkeypatch.setattr(listening, "RESUBSCRIBE_DELAY", 0.01)
    monkeypatch.setattr(listening, "MAX_RESUBSCRIBE_DELAY", 0.4)
    listener = Refused(error)
    eventually(lambda: len(listener.attempts) >= 8)
    listener.stop()
    pauses = [later - earlier for earlier, later in zip(listener.attempts, listener.attempts[1:], strict=False)]
    assert pauses[0] < 0.1
    assert min(pauses[5:]) >= 0.2
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "celery-leader-listener"])


def wakes(notifications: Notifications) -> bool:
    """Whether a wait ends that would last for some moments."""
    begun = time.monotonic()
    notifications.wait(0.1)
    return time.monotonic() - begun < 0.05


def test_news_of_who_is_known_end_no_wait() -> None:
    """Somebody else does, and so does nobody."""
    notifications = Notifications()
    notifications.seen("a")
    notifications.heard("a")
    assert not wakes(notifications)
    notifications.heard("b")
    assert wakes(notifications)
    notifications.heard("")
    assert wakes(notifications)
    notifications.interrupt()
    assert wakes(notifications)


def test_who_was_too_late_looks_again_in_no_hurry() -> None:
    """Until there is a vacancy again."""
    notifications = Notifications()
    notifications.seen("")
    notifications.heard("b")
    assert not wakes(notifications)
    notifications.heard("")
    assert wakes(notifications)


def test_who_never_looked_is_woken_by_anything() -> None:
    """What there was before is not known."""
    for holder in ("", "a"):
        notifications = Notifications()
        notifications.heard(holder)
        assert wakes(notifications)
