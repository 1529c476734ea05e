"""Signals that end a beat wait until its messages are out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

# SIGHUP as well: by default it would end a beat without a word, and its lease with nobody to give it back.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]

#: How long (seconds) after a signal a message may still wait for its broker.
PATIENCE = 1.0


class CutOff(BaseException):
    """The process is to end, and waits for its broker no longer.

    No Exception: kombu takes one in a serialiser for a message that can never be sent, and Celery's signals and logging
    swallow them.
    """

    def __init__(self) -> None:
        """Say so."""
        super().__init__("this process is to end, and its broker does not answer")


class Termination:
    """Lets a tick end before SIGTERM, SIGINT or SIGHUP ends the beat, so that what was sent is also confirmed.

    A broker that hangs must not keep the lease from the next leader: a message that waits for it is cut off, by
    SIGALRM, which reaches a main thread wherever it waits and needs no thread beside it.
    """

    def __init__(self) -> None:
        """Prepare; nothing is handled before :meth:`install`."""
        self._ticking = False
        self._may_cut = False
        #: Whether the time for what waits for a broker is over.
        self.is_late = False
        self._pending: tuple[int, Any] | None = None
        self._previous: dict[int, Any] = {}
        self._alarm_before: tuple[Any, tuple[float, float]] | None = None

    @classmethod
    def install(cls) -> Termination | None:
        """Take the place of the process's handlers; None in a thread that may not."""
        if threading.current_thread() is not threading.main_thread():
            return None
        termination = cls()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: it is to go on
                termination._previous[number] = signal.signal(number, termination._on_signal)
        return termination

    @property
    def is_pending(self) -> bool:
        """Whether a signal has come and waits for the tick to end, which should do so soon."""
        return self._pending is not None

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Keep signals back until the block ends. A second one does not wait."""
        self._ticking = True
        try:
            yield
        finally:
            self._ticking = self._may_cut = False
            pending, self._pending = self._pending, None
            if pending:
                self._reset_alarm()
                self._handle(*pending)
                self.is_late = False  # the project has a handler of its own, which ends nothing

    @contextlib.contextmanager
    def cutting_off(self) -> Iterator[None]:
        """Let the block, which waits for a broker, wait no longer than :data:`PATIENCE` after a signal.

        Raises:
            CutOff: It did.
        """
        self._may_cut = True
        try:
            yield
        finally:
            self._may_cut = False

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._ticking and self._pending is None:
            self._pending = (number, frame)
            self._set_alarm()
        else:
            self._handle(number, frame)

    def _set_alarm(self) -> None:
        """Have the alarm go off after :data:`PATIENCE`, and again and again: the first may find nothing to cut off."""
        if hasattr(signal, "setitimer"):  # where it is not, a broker's socket has a timeout as well
            handler = signal.signal(signal.SIGALRM, self._on_alarm)  # first: by default the signal ends a process
            self._alarm_before = handler, signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)

    def _reset_alarm(self) -> None:
        before, self._alarm_before = self._alarm_before, None
        if before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before[0])
            signal.setitimer(signal.ITIMER_REAL, *before[1])

    def _on_alarm(self, number: int, frame: Any) -> None:
        self.is_late = True
        if self._may_cut:
            self._may_cut = False
            raise CutOff

    def _handle(self, number: int, frame: Any) -> None:
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
        else:
            raise SystemExit(0)
