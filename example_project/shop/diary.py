"""A diary of events in all workers, one JSON object a line. The demo reads it, to count and to measure.

Leader election does not need it: it shows how to watch an election with the signals of Celery and celery-leader.
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
    """Begin to write. The app's ``ready()`` calls this in each process."""
    worker_ready.connect(_on_worker_ready)
    task_success.connect(_on_task_success)
    leader_started.connect(_on_leader_started)
    leader_stopped.connect(_on_leader_stopped)


def note(event: str, **details: Any) -> None:
    """Add a line with one write() to a file opened with O_APPEND, so lines of several processes never mix."""
    # The whole machine has one CLOCK_MONOTONIC, and nobody sets it, so times of different processes are comparable.
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
    due_at = getattr(request, "leader_due_at", None)  # a header of messages from a leader's beat
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
