"""An example Django project, whose Celery workers elect a leader."""

from __future__ import annotations

from proj.celery import app as celery_app

__all__ = ["celery_app"]
