"""Stores for records and claims."""

from __future__ import annotations

from celery_leader.backends.base import Backend
from celery_leader.backends.urls import open_backend

__all__ = ["Backend", "open_backend"]
