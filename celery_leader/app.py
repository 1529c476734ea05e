"""The one call that wires elections into a Celery app."""

from __future__ import annotations

import logging
import sys
from typing import Any, NoReturn

from celery import Celery
from celery.bin.base import CeleryOption
from celery.signals import beat_init

from celery_leader.beat.second_sender import refuse_second_sender
from celery_leader.refusal import say_in_file
from celery_leader.settings import apps_set_up, leader_values
from celery_leader.tasks.leader_only import route_guarded_tasks
from celery_leader.worker import control
from celery_leader.worker.bootsteps import EmbeddedBeatStep, LeaderQueueStep, LeaderStep
from celery_leader.worker.wrong_states import guarded_tasks, listed

logger = logging.getLogger(__name__)

__all__ = ["control", "refuse_without_setup", "setup"]  # importing control registers its commands

_HELP_GROUP = "Leader Options"


def setup(app: Celery) -> Celery:
    """Let the workers of *app* elect a leader.

    Adds the worker's steps and command line options, the remote control commands and the routes of
    ``@leader_only`` tasks. Opens no connection and reads no setting yet; calling it twice changes nothing.

    Args:
        app: The app; its settings may be made before or after.

    Returns:
        The same app.
    """
    apps_set_up.add(app)
    app.steps["worker"].update([LeaderStep, EmbeddedBeatStep])
    app.steps["consumer"].add(LeaderQueueStep)
    if not any(option.name == "without_leader" for option in app.user_options["worker"]):
        app.user_options["worker"].update(_worker_options())
    beat_init.connect(refuse_second_sender, dispatch_uid="celery_leader")
    app.on_after_configure.connect(route_guarded_tasks)
    if app.configured:
        route_guarded_tasks(app)
    return app


def refuse_without_setup(sender: Any, **_: Any) -> None:
    """Refuse the start of a worker that is meant to lead and never can: a receiver of Celery's ``worker_init``.

    Raises:
        SystemExit: The app of *sender*, a worker, has ``leader_beat`` set or guarded tasks, and was not set up.
    """
    app = sender.app
    if app in apps_set_up:
        return
    settings, tasks = leader_values(app.conf), [name for names in guarded_tasks(app).values() for name in names]
    cure = "celery_leader.setup(app) was not called. Call it where the app is made"
    if settings.get("beat"):
        _refuse(sender, f"leader_beat is set, but {cure}: without it no periodic task is sent.")
    if tasks:
        _refuse(sender, f"{listed(tasks)} may run on the leader only, but {cure}: without it they wait for ever.")
    if settings:
        keys = listed(f"leader_{name}" for name in sorted(settings))
        logger.error("Settings are made (%s), but %s: without it this worker never leads.", keys, cure)


def _refuse(worker: Any, sentence: str) -> NoReturn:
    """End *worker*, which is just being made and has not opened its log yet."""
    if worker.logfile:
        worker.setup_logging()
        say_in_file(worker, sentence)
    sys.exit(sentence)


def _worker_options() -> list[CeleryOption]:
    return [
        CeleryOption(("--without-leader",), is_flag=True, help_group=_HELP_GROUP, help="Take part in no election."),
        CeleryOption(
            ("--leader-beat",), is_flag=True, help_group=_HELP_GROUP, help="Run a beat, which sends while it leads."
        ),
    ]
