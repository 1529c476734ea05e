"""The chaos tests' app, which also notes when a leader sends a tick. Run as workers by ``handover.py``."""

from __future__ import annotations

from typing import Any

from celery.signals import after_task_publish
from chaos_project import app, log

__all__ = ["app"]


@after_task_publish.connect
def _note(headers: dict[str, Any], **_: Any) -> None:
    log("sent", token=headers.get("leader_token"))
