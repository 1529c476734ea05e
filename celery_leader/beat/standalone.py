"""A standalone beat: ``celery beat``, which contends by itself and is ended by signals."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from celery.utils.nodenames import gethostname

from celery_leader.election.thread import Bell
from celery_leader.leadership.campaign import Campaign, backend_of, check_backend
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

# SIGHUP as well: by default it would end a beat silently, and nobody would release its lease.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]

#: How long (seconds) a stopping beat still waits for a broker that does not answer.
PATIENCE = 1.0
#: How long (seconds) until the next wait for it is cut.
_CUT_AGAIN = 0.1


class Standalone:
    """The campaign of a standalone beat, and the signals that end it.

    SIGTERM, SIGINT and SIGHUP wait for the end of a tick, so that sent messages are also confirmed. A broker that hangs
    must not keep the lease from the next leader: after :data:`PATIENCE` a thread cuts each wait for it.
    """

    def __init__(self, app: Any, settings: LeaderSettings, *, cut: Callable[[], None]) -> None:
        """Prepare; nothing runs before :meth:`start`.

        Args:
            app: The Celery app.
            settings: Its settings.
            cut: Fails each wait for the broker.

        Raises:
            ConfigurationError: The store can't be used.
        """
        _warn_of_others(settings)
        check_backend(backend := backend_of(settings, app.main))
        nodename = f"beat@{gethostname()}"
        self.campaign = Campaign(settings, [settings.beat_election], backend=backend, nodename=nodename)
        self._cut = cut
        self._ticking = False
        self._pending: tuple[int, Any] | None = None
        self._asked = Bell()  # an event is not safe in a signal handler
        self._is_stopped = False
        self._previous: dict[int, Any] = {}

    @property
    def is_ending(self) -> bool:
        """Whether a signal has come and waits for the tick to end, which should do so soon."""
        return self._pending is not None

    def start(self) -> None:
        """Handle signals, in the main thread, and start contending."""
        if threading.current_thread() is threading.main_thread():
            threading.Thread(target=self._watch, name="celery-leader-beat-end", daemon=True).start()
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: it is to go on
                    self._previous[number] = signal.signal(number, self._on_signal)
        self.campaign.start()

    def stop(self) -> None:
        """Release the lease, and end the thread."""
        self.campaign.stop()
        self._is_stopped = True
        self._asked.ring()

    @contextlib.contextmanager
    def signals_held_back(self) -> Iterator[None]:
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
            self._asked.ring()
        else:
            self._handle(number, frame)

    def _handle(self, number: int, frame: Any) -> None:
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
        else:
            raise SystemExit(0)

    def _watch(self) -> None:
        """Cut the waits of a tick that goes on after a signal: again and again, because kombu tries again."""
        while self._asked.wait(threading.TIMEOUT_MAX) and not self._is_stopped:
            pending = self._pending
            time.sleep(PATIENCE)
            while pending and self._pending is pending:
                self._cut()
                time.sleep(_CUT_AGAIN)


def _warn_of_others(settings: LeaderSettings) -> None:
    if settings.beat:
        logger.warning("leader_beat is True, so the workers have beats: this one contends with them for %r, and while "
                       "it leads, guarded tasks wait. Set leader_beat = False, or start no standalone beat.",
                       settings.beat_election)  # fmt: skip
    if settings.backend.startswith("memory:"):
        logger.warning("leader_backend is memory://, so this beat keeps its election in its own memory: any other beat "
                       "leads as well, and sends every tick again. Set leader_backend to a store that all beats reach: "
                       "redis://… or django-db://<alias>.")  # fmt: skip
