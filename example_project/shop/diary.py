"""A diary of what happened in all workers, one JSON object a line. The demo reads it, to count and to measure.

Not needed for leader election: it shows how to watch it, with Celery's signals and with ours.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery.signals import task_success, worker_ready
from django.conf import settings

from celery_leader import current_term
from celery_leader.signals import leader_started, leader_stopped

NAME = "diary.jsonl"


def keep() -> None:
    """Begin to write: Django calls it in each process."""
    worker_ready.connect(_on_worker_ready)
    task_success.connect(_on_task_success)
    leader_started.connect(_on_leader_started)
    leader_stopped.connect(_on_leader_stopped)


def note(event: str, **details: Any) -> None:
    """Add a line. One write() to a file opened with O_APPEND: lines of several processes never mix."""
    # CLOCK_MONOTONIC is one clock for the whole machine, and nobody sets it: times of different processes compare.
    line = {"event": event, "at": time.clock_gettime(time.CLOCK_MONOTONIC), "pid": os.getpid(), **details}
    file = os.open(Path(settings.DATA_DIR) / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


def _on_worker_ready(sender: Any, **_: Any) -> None:
    note("ready", node=sender.hostname)


def _on_leader_started(sender: str, term: Any, **_: Any) -> None:
    note("started", election=sender, identity=term.identity, token=term.fencing_token)


def _on_leader_stopped(sender: str, term: Any, reason: Any, **_: Any) -> None:
    note("stopped", election=sender, identity=term.identity, token=term.fencing_token, reason=reason.value)


def _on_task_success(sender: Any, **_: Any) -> None:
    request = sender.request
    due_at = getattr(request, "leader_due_at", None)  # the header of what a leader's beat sent
    if due_at is None:
        return
    term = current_term()
    note(
        "ran",
        task=sender.name,
        id=request.id,
        due_at=due_at,
        token=int(request.leader_token),
        node=request.hostname,
        leading=term.fencing_token if term else None,
        redelivered=bool((request.delivery_info or {}).get("redelivered")),
    )
