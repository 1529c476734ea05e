"""The beat inside a worker: a thread, in every kind of pool."""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery_leader.beat.mixin import STANDBY_WAIT
from celery_leader.beat.outbox import TickCounts
from celery_leader.beat.scheduler import leader_scheduler
from celery_leader.leadership.campaign import Campaign

logger = logging.getLogger(__name__)


class EmbeddedBeat:
    """Ticks while its worker lives; the leader's sends."""

    def __init__(self, app: Any, campaign: Campaign) -> None:
        """Prepare a scheduler of the class that ``leader_beat_scheduler`` names."""
        # Celery 5.5 has a process consume from every queue that it sends to by name, unless it was told from which.
        queues = app.amqp.queues
        queues.select(list(queues.consume_from))
        scheduler_class = leader_scheduler(campaign.settings.beat_scheduler)
        self._app = app
        self._scheduler = scheduler_class(app=app, campaign=campaign, schedule_filename=app.conf.beat_schedule_filename)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery-leader-beat", daemon=True)

    @property
    def is_busy(self) -> bool:
        """Whether the leader's lease must not be given back now; see :attr:`LeaderMixin.is_busy`."""
        return self._scheduler.is_busy

    @property
    def counts(self) -> TickCounts:
        """What became of ticks so far."""
        return self._scheduler.counts

    def start(self) -> None:
        """Start ticking."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Begin no tick any more, and wait up to *timeout* seconds for the last to end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        self._app.set_current()
        while not self._stopping.is_set():
            self._stopping.wait(self._tick())
        self._scheduler.close()

    def _tick(self) -> float:
        try:
            return min(self._scheduler.tick(), STANDBY_WAIT)
        except Exception:  # one tick failed: the next may not, and the worker goes on in any case
            logger.exception("A tick of the beat failed")
            return STANDBY_WAIT
