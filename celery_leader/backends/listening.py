"""Notifications of a store, which end a lock's sleep before its time: heard on a thread of its own.

Notifications are only hints. A lost one costs a poll; one that comes twice or out of order costs a look at the record.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from celery_leader.exceptions import LeaderError

logger = logging.getLogger(__name__)

#: A server whose machine is gone sends nothing, like one without notifications. So the system asks whether it is there:
#: after so many seconds without a word, every so many seconds, and so many times.
KEEPALIVE_AFTER, KEEPALIVE_EACH, KEEPALIVE_TIMES = 30, 10, 3
#: How long (seconds) one wait for notifications lasts, where nothing else can end it.
LISTEN_TIME = 5.0
#: How long (seconds) to leave a store alone that ended the subscription, and how long at most when it does so again
#: and again: one that knows no subscriptions must not be asked each second for ever.
RESUBSCRIBE_DELAY = 1.0
MAX_RESUBSCRIBE_DELAY = 30.0


class Notifications:
    """What one lock's user waits for, and its listener hears."""

    def __init__(self, listen: Callable[[Notifications], Listener] | None = None) -> None:
        """Know nobody.

        Args:
            listen: Starts a listener, at the first wait. None where the store has no notifications.
        """
        self._listen = listen
        self._listener: Listener | None = None
        self._woken = threading.Event()
        self._holder: str | None = None

    def wait(self, timeout: float) -> None:
        """See :meth:`celery_leader.election.Lock.wait`."""
        if self._listen and self._listener is None:
            self._listener = self._listen(self)
        self._woken.wait(timeout)
        self._woken.clear()

    def interrupt(self) -> None:
        """See :meth:`celery_leader.election.Lock.interrupt`."""
        self._woken.set()

    def close(self) -> None:
        """End the listener; a later wait starts another one."""
        listener, self._listener = self._listener, None
        if listener:
            listener.stop()

    def seen(self, holder: str) -> None:
        """Remember the holder whom the lock's user read or wrote last."""
        self._holder = holder

    def heard(self, holder: str) -> None:
        """End a wait when there is a new holder, or none any more.

        Not when that is known, because the lock's user looked meanwhile. Nor when it saw the lease vacant and somebody
        else has it now: it was too late, and its next look, in no hurry, tells who that is. Otherwise a vacancy would
        cost the store up to three requests a candidate instead of one or two.
        """
        known, self._holder = self._holder, holder
        if known not in ("", holder):
            self._woken.set()


class Listener(ABC):
    """Hears of changes of holder on a thread and a connection of its own, and subscribes again when it is cut off."""

    def __init__(self, notifications: Notifications, name: str) -> None:
        """Listen from now on.

        Args:
            notifications: Where to put what is heard.
            name: What is listened to, for logs.
        """
        self._notifications = notifications
        self._name = name
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="celery-leader-listener", daemon=True).start()

    @abstractmethod
    def subscription(self) -> AbstractContextManager[Callable[[float], Iterable[str]]]:
        """Subscribe, until the block ends.

        Returns:
            What waits up to so many seconds for notifications, and returns the holders that they name.

        Raises:
            StoreUnavailable: There was no answer, or there is no such thing there.
        """

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def _run(self) -> None:
        pause = RESUBSCRIBE_DELAY
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                self._listen()
            except LeaderError as error:
                logger.debug("Change notifications unavailable, polling: %s", error)
            except Exception:  # whatever is wrong with a listener, the election polls
                if not self._stopping.is_set():  # a listener that is cut off may fail in any way
                    logger.exception("Listening to %s failed", self._name)
            lasted = time.monotonic() - begun
            pause = RESUBSCRIBE_DELAY if lasted > MAX_RESUBSCRIBE_DELAY else min(pause * 2, MAX_RESUBSCRIBE_DELAY)
            # Not all candidates at once: a server that comes back has enough to do.
            self._stopping.wait(pause * random.uniform(0.5, 1))  # noqa: S311  # spreads requests

    def _listen(self) -> None:
        with self.subscription() as wait:
            while not self._stopping.is_set():
                for holder in wait(LISTEN_TIME):
                    self._notifications.heard(holder)
