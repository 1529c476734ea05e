"""Signals that end a beat wait until its messages are out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

# SIGHUP as well: by default it would end a beat without a word, and its lease with nobody to give it back.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class Termination:
    """Lets a tick end before SIGTERM, SIGINT or SIGHUP ends the beat, so that what was sent is also confirmed."""

    def __init__(self) -> None:
        """Prepare; nothing is handled before :meth:`install`."""
        self._ticking = False
        self._pending: tuple[int, Any] | None = None
        self._previous: dict[int, Any] = {}

    @classmethod
    def install(cls) -> Termination | None:
        """Take the place of the process's handlers; None in a thread that may not."""
        if threading.current_thread() is not threading.main_thread():
            return None
        termination = cls()
        for number in _SIGNALS:
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
            self._ticking = False
            pending, self._pending = self._pending, None
            if pending:
                self._handle(*pending)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._ticking and self._pending is None:
            self._pending = (number, frame)
        else:
            self._handle(number, frame)

    def _handle(self, number: int, frame: Any) -> None:
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
        elif previous is not signal.SIG_IGN:
            raise SystemExit(0)
