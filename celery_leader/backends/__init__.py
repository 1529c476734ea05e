"""Stores for records, claims and what became of ticks."""

from __future__ import annotations

from celery_leader.backends.base import Backend
from celery_leader.backends.effects import Admission, Effects, TransactionalEffects
from celery_leader.backends.urls import open_backend

__all__ = ["Admission", "Backend", "Effects", "TransactionalEffects", "open_backend"]
