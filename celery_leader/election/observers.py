"""Notifying observers of terms: in order, completely, and without ever holding up the elector."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from celery_leader.election.limits import shown_value
from celery_leader.election.term import StopReason, Term

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Hears of the terms of a candidate. Calls come in order, one at a time, on a thread of the observer's own."""

    def started(self, term: Term) -> None:
        """*term* began: this process leads."""

    def stopped(self, term: Term, reason: StopReason) -> None:
        """*term* ended. Each term that started ends exactly once."""

    def new_leader(self, identity: str) -> None:
        """The observed holder changed to *identity*, which may be this process; empty when nobody leads."""


class Observers:
    """Delivers calls to observers. Each has a queue of its own."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        """Take all observers now: none can come later, and miss the start of a term."""
        self._queues = [_Queue(observer) for observer in observers]

    def tell(self, method: str, *args: Any) -> None:
        """Queue a call of *method* for every observer and return at once."""
        for queue in self._queues:
            queue.put(method, args)

    def join(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until every observer has heard all; return whether all have."""
        deadline = time.monotonic() + timeout
        return all(queue.idle.wait(max(0.0, deadline - time.monotonic())) for queue in self._queues)


class _Queue:
    """One observer's calls. A thread exists only while there is something to deliver."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._calls: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._mutex = threading.Lock()
        self.idle = threading.Event()
        self.idle.set()

    def put(self, method: str, args: tuple[Any, ...]) -> None:
        with self._mutex:
            self._calls.append((method, args))
            if not self.idle.is_set():
                return
            self.idle.clear()
        try:
            threading.Thread(target=self._drain, name="celery-leader-observer", daemon=True).start()
        except RuntimeError:  # too many threads, or the interpreter ends: the next call delivers this one too
            logger.exception("Observer %r can't be notified of %s now", self._observer, method)
            self.idle.set()

    def _drain(self) -> None:
        while call := self._next():
            method, args = call
            try:
                deliver: Callable[..., None] = getattr(self._observer, method)
                deliver(*args)
            except BaseException:  # even SystemExit ends neither the next call nor the other observers
                logger.exception("Observer %r failed on %s%s", self._observer, method, shown_value(args))

    def _next(self) -> tuple[str, tuple[Any, ...]] | None:
        with self._mutex:
            if self._calls:
                return self._calls.popleft()
            self.idle.set()
            return None
