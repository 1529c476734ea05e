"""What a worker is made of, besides Celery's: its campaign, readiness, beat and what watches over them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import billiard
from celery.signals import task_received, worker_shutting_down

from celery_leader.beat.embedded import EmbeddedBeat
from celery_leader.beat.second_sender import SecondSenders
from celery_leader.leadership.campaign import Campaign, check_backend
from celery_leader.older_celery import connect_method, pool_start_method
from celery_leader.settings import LeaderSettings
from celery_leader.tasks.routing import route_guarded_tasks
from celery_leader.worker.queue import runs_guarded_work
from celery_leader.worker.readiness import Readiness


class WorkerLeadership:
    """A worker's part in its elections: the campaign and what hangs on it."""

    def __init__(self, worker: Any, *, with_beat: bool) -> None:
        """Prepare; nothing runs before :meth:`start`.

        Args:
            worker: Celery's worker.
            with_beat: Whether it has a beat, whatever the settings say.

        Raises:
            ConfigurationError: A setting is wrong, or the store can't be used.
        """
        app = worker.app
        settings = LeaderSettings.from_app(app)
        check_backend(settings, app.main)
        self.beat: EmbeddedBeat | None = None
        with_beat = with_beat or settings.beat
        elections = [*settings.elections, settings.beat_election] if with_beat else list(settings.elections)
        self.readiness = Readiness(
            required=settings.require_ready,
            watches_loop="solo" not in _module_of(worker.pool_cls),
            lease_duration=max(settings.election(name, identity="-").lease_duration for name in elections),
        )
        self.campaign = Campaign(
            settings,
            elections,
            nodename=worker.hostname,
            app_name=app.main,
            candidacy=self.readiness.candidacy,
            is_busy=self._is_busy,
            in_file=_spawns(worker),
        )
        if with_beat:
            self.beat = EmbeddedBeat(app, self.campaign)
        route_guarded_tasks(app)
        # Before there are signal handlers, and for as long as this object lives: connecting and disconnecting take a
        # lock of Celery's that the handlers of a second signal would wait for for ever.
        connect_method(worker_shutting_down, self._on_shutting_down)
        self._second_senders = SecondSenders(lambda: app.conf.beat_schedule)
        connect_method(task_received, self._second_senders.received)

    def start(self) -> None:
        """Start contending."""
        self.campaign.start()

    def drain(self) -> None:
        """Let no guarded work begin, and give the leases back as soon as none runs. Returns at once."""
        self.readiness.shutting_down = True
        self.campaign.drain()

    def stop(self) -> None:
        """Give the leases back and end the threads."""
        if self.beat:
            self.beat.stop(timeout=self.campaign.settings.io_timeout)
        self.campaign.stop()

    def status(self) -> dict[str, dict[str, Any]]:
        """Return what this worker believes of each election, and what became of its beat's ticks, without I/O."""
        status = {name: _status(candidate) for name, candidate in self.campaign.candidates.items()}
        if self.beat:
            status[self.campaign.settings.beat_election]["ticks"] = asdict(self.beat.counts)
        return status

    def _on_shutting_down(self, **_: Any) -> None:
        # In a signal handler: assign and ring, and nothing else. The electors' threads begin to hand over long before
        # a main loop that waits for its broker gets round to it.
        self.readiness.shutting_down = True
        self.campaign.close_to_new_work()

    def _is_busy(self, election: str) -> bool:
        if self.beat and election == self.campaign.settings.beat_election and self.beat.is_busy:
            return True
        return runs_guarded_work(election)


def _status(candidate: Any) -> dict[str, Any]:
    term = candidate.shared_trust.term()
    return {
        "leading": term is not None,
        "leader": candidate.shared_trust.leader(),
        "identity": candidate.elector.config.identity,
        "fencing_token": term.fencing_token if term else None,
        "trouble": candidate.elector.trouble,
    }


def _spawns(worker: Any) -> bool:
    """Return whether pool children begin with a fresh interpreter: by Celery's setting, or billiard's (on macOS)."""
    if sys.platform == "win32":  # has no prefork pool, and nothing else starts children
        return False
    return pool_start_method(worker) != "fork" or billiard.get_start_method() != "fork"


def _module_of(pool: Any) -> str:
    return pool if isinstance(pool, str) else str(pool.__module__)
