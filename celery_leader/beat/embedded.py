"""The beat inside a worker: a thread, in every kind of pool."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from celery.beat import Service
from celery.signals import beat_embedded_init, beat_init

from celery_leader.beat.gate import STANDBY_WAIT, LeaderMixin
from celery_leader.beat.outbox import TickCounts
from celery_leader.beat.reports import Failures
from celery_leader.beat.scheduler import leader_scheduler
from celery_leader.beat.standalone import PATIENCE
from celery_leader.election.thread import Bell, join
from celery_leader.leadership.campaign import Campaign
from celery_leader.older_celery import select_queues

logger = logging.getLogger(__name__)


class EmbeddedBeat:
    """A beat that ticks while its worker lives; only the leader's sends."""

    def __init__(self, app: Any, campaign: Campaign) -> None:
        """Prepare a scheduler of the class that ``leader_beat_scheduler`` names.

        Raises:
            ConfigurationError: There is no such class, or it can't be imported.
        """
        select_queues(app)
        scheduler_class = leader_scheduler(campaign.settings.beat_scheduler)
        self._app = app
        self._scheduler: LeaderMixin = scheduler_class(
            app=app,
            campaign=campaign,
            schedule_filename=app.conf.beat_schedule_filename,
            max_interval=app.conf.beat_max_loop_interval,
        )
        self._bell = Bell()
        self._is_stopping = False
        self._asked_at: float | None = None  # when the election first wanted to release the lease of a stopping beat
        self._failed_ticks = Failures("A tick of the beat failed")
        self._thread = threading.Thread(target=self._run, name="celery-leader-beat", daemon=True)

    @property
    def is_busy(self) -> bool:
        """Whether the lease must not be released now; see :attr:`LeaderMixin.is_busy`.

        The election asks before it releases the lease. A beat that has something to write first does so
        at once. A stopping beat does not wait long for a broker that hangs.
        """
        if self._scheduler.is_to_write():
            self._bell.ring()
        if self._scheduler.is_ending:
            self._asked_at = self._asked_at or time.monotonic()
            if time.monotonic() > self._asked_at + PATIENCE:
                self._scheduler.cut()
        return self._scheduler.is_busy

    @property
    def counts(self) -> TickCounts:
        """How many ticks were claimed, sent and missed so far."""
        return self._scheduler.counts

    def start(self) -> None:
        """Start ticking."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Begin no tick any more, and wait up to *timeout* seconds for the last to end."""
        self._is_stopping = True
        self._bell.ring()
        if self._thread.is_alive():
            join(self._thread, timeout)

    def _run(self) -> None:
        self._app.set_current()
        try:
            self._tell_receivers()
            while not self._is_stopping:
                self._bell.wait(self._tick())
            self._scheduler.close()
        finally:
            _close_database_connections()

    def _tell_receivers(self) -> None:
        """Send the signals that an embedded beat of Celery's sends; the sender is the same kind of object."""
        service = Service(self._app, scheduler_cls=type(self._scheduler))
        service.scheduler = self._scheduler
        for signal in (beat_init, beat_embedded_init):
            try:
                signal.send(sender=service)
            except SystemExit:  # Celery's signals catch anything else
                logger.exception("A receiver of %s wants to end this beat; the worker would go on without it", signal)

    def _tick(self) -> float:
        try:
            return min(self._scheduler.tick(), STANDBY_WAIT)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # without it a leader sends nothing
            self._failed_ticks.failed(error, time.monotonic())
            return STANDBY_WAIT


def _close_database_connections() -> None:
    """Close the connections of this thread to Django's databases: its schedulers open them, and only it can."""
    if database := sys.modules.get("django.db"):
        database.connections.close_all()
