"""Where Celery looks for tasks."""

from __future__ import annotations

from celery import shared_task
from chaos_project import note_form

from celery_leader import leader_only


@shared_task(name="found")
@leader_only
def found() -> None:
    """Note that it ran."""
    note_form("found")
