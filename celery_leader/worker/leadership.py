"""A worker's parts besides Celery's, all put together in one place: :func:`wire`."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import billiard
from celery import Celery
from celery.signals import task_received, worker_shutting_down

from celery_leader.beat.embedded import EmbeddedBeat
from celery_leader.beat.second_sender import SecondSenders
from celery_leader.exceptions import ConfigurationError
from celery_leader.leadership import state
from celery_leader.leadership.campaign import Campaign, backend_of, check_backend
from celery_leader.older_celery import connect_method, pool_start_method
from celery_leader.settings import LeaderSettings, leader_values
from celery_leader.tasks.checks import check_atomic_tasks, check_overridden_guards, each_guarded_task
from celery_leader.tasks.leader_only import route_guarded_tasks
from celery_leader.worker.queue import runs_guarded_work
from celery_leader.worker.readiness import Readiness
from celery_leader.worker.reception import GuardedStrategy
from celery_leader.worker.wrong_states import Check, checks_of

if TYPE_CHECKING:
    from celery_leader.backends import Backend

logger = logging.getLogger(__name__)


def wire(
    worker: Any, *, takes_part: bool, with_beat: bool, has_other_beat: bool
) -> tuple[WorkerLeadership | None, list[Check]]:
    """Make a worker's parts, before any child is forked. Nothing runs yet.

    Args:
        worker: Celery's worker.
        takes_part: Whether it takes part in elections.
        with_beat: Whether it has a beat, whatever the settings say.
        has_other_beat: Whether it has a beat of Celery's (``-B``).

    Returns:
        Its part in its elections, None when it takes none; and its checks of each minute.

    Raises:
        ConfigurationError: A setting is wrong, two options contradict each other, or the store can't be used.
    """
    app = worker.app
    _refuse_contradictions(app, takes_part, with_beat, has_other_beat)
    check_overridden_guards(app)
    check_atomic_tasks(app)
    route_guarded_tasks(app)  # again: the app's own routes may have been set after setup()
    receive_guarded_tasks(app)
    if not takes_part:
        state.take_no_part()
    try:
        settings = LeaderSettings.from_app(app)
        backend = backend_of(settings, app.main)
    except ConfigurationError as error:
        if takes_part:
            raise
        _log_unchecked(error)
        return None, []
    leadership = WorkerLeadership(worker, settings, backend, with_beat=with_beat) if takes_part else None
    campaign = leadership.campaign if leadership else None
    try:
        return leadership, list(checks_of(app, settings, backend, campaign, has_other_beat=has_other_beat))
    except ConfigurationError as error:
        _log_unchecked(error)
        return leadership, []


def _log_unchecked(error: ConfigurationError) -> None:
    logger.info("This worker can't check whether its guarded and periodic tasks have a leader: %s", error)


def receive_guarded_tasks(app: Celery) -> None:
    """Let workers treat the messages of guarded tasks as such; harmless to repeat.

    They are acknowledged when the task has ended: a message that is acknowledged can't go back.
    """
    for task, _ in each_guarded_task(app):
        task.acks_late = True
        if not hasattr(task, "leader_strategy"):
            task.leader_strategy = task.Strategy = GuardedStrategy(task.Strategy)


class WorkerLeadership:
    """A worker's part in its elections: the campaign, readiness, beat, and listeners."""

    def __init__(self, worker: Any, settings: LeaderSettings, backend: Backend, *, with_beat: bool) -> None:
        """Prepare; nothing runs before :meth:`start`.

        Args:
            worker: Celery's worker.
            settings: Its app's.
            backend: Where its elections are kept. It is checked first.
            with_beat: Whether it has a beat, whatever the settings say.

        Raises:
            ConfigurationError: The store can't be used, or the beat's scheduler.
        """
        app = worker.app
        check_backend(backend)
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
            backend=backend,
            nodename=worker.hostname,
            candidacy=self.readiness.candidacy,
            is_busy=self._is_busy,
            in_file=_spawns(worker),
        )
        if with_beat:
            self.beat = EmbeddedBeat(app, self.campaign)
        # Connected before there are signal handlers, and never disconnected: both take a lock of Celery's, and the
        # handler of a second signal would wait for that lock for ever.
        connect_method(worker_shutting_down, self._on_shutting_down)
        self._second_senders = SecondSenders(lambda: app.conf.beat_schedule)
        connect_method(task_received, self._second_senders.received)

    def start(self) -> None:
        """Start contending."""
        self.campaign.start()

    def drain(self) -> None:
        """Let no guarded work begin, and release the leases as soon as none runs. Returns at once."""
        self.readiness.shutting_down = True
        self.campaign.drain()

    def stop(self) -> None:
        """Release the leases and end the threads."""
        if self.beat:
            self.beat.stop(timeout=self.campaign.settings.io_timeout)
        self.campaign.stop()

    def status(self) -> dict[str, dict[str, Any]]:
        """Return this worker's view of each election, and the counts of its beat's ticks, without I/O."""
        status = {name: _status(candidate) for name, candidate in self.campaign.candidates.items()}
        if self.beat:
            status[self.campaign.settings.beat_election]["ticks"] = asdict(self.beat.counts)
        return status

    def _on_shutting_down(self, **_: Any) -> None:
        # In a signal handler: assign and ring, and nothing else. The electors' threads begin to hand over long before a
        # main loop that waits for its broker.
        self.readiness.shutting_down = True
        self.campaign.close_to_new_work()

    def _is_busy(self, election: str) -> bool:
        if self.beat and election == self.campaign.settings.beat_election and self.beat.is_busy:
            return True
        return runs_guarded_work(election)


def _refuse_contradictions(app: Celery, takes_part: bool, with_beat: bool, has_other_beat: bool) -> None:
    """Refuse options of a worker that contradict each other.

    Raises:
        ConfigurationError: The message names them.
    """
    if with_beat and not takes_part:
        raise ConfigurationError(
            "--leader-beat and --without-leader contradict each other: only a candidate's beat may send. Leave one out."
        )
    if has_other_beat and (with_beat or leader_values(app.conf).get("beat")):
        raise ConfigurationError(
            "-B starts a beat that follows no leader. Beside leader_beat it would send every periodic task twice: "
            "start this worker without -B."
        )


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
