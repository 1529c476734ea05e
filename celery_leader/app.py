"""The one call that wires elections into a Celery app."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.bin.base import CeleryOption

from celery_leader.tasks import acknowledge_guarded_tasks_late, route_guarded_tasks
from celery_leader.worker import control
from celery_leader.worker.bootsteps import EmbeddedBeatStep, LeaderQueueStep, LeaderStep

__all__ = ["control", "setup"]  # importing control registers its commands

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
    app.steps["worker"].update([LeaderStep, EmbeddedBeatStep])
    app.steps["consumer"].add(LeaderQueueStep)
    if not any(option.name == "without_leader" for option in app.user_options["worker"]):
        app.user_options["worker"].update(_worker_options())
    app.on_after_configure.connect(_on_after_configure, dispatch_uid="celery_leader")
    app.on_after_finalize.connect(_on_after_finalize, dispatch_uid="celery_leader")
    if app.configured:
        route_guarded_tasks(app)
    if app.finalized:
        acknowledge_guarded_tasks_late(app)
    return app


def _worker_options() -> list[CeleryOption]:
    return [
        CeleryOption(("--without-leader",), is_flag=True, help_group=_HELP_GROUP, help="Take part in no election."),
        CeleryOption(
            ("--leader-beat",), is_flag=True, help_group=_HELP_GROUP, help="Run a beat, which sends while it leads."
        ),
    ]


def _on_after_configure(sender: Celery, **_: Any) -> None:
    route_guarded_tasks(sender)


def _on_after_finalize(sender: Celery, **_: Any) -> None:
    acknowledge_guarded_tasks_late(sender)
