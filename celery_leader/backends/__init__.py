"""Stores for records, claims and what became of ticks."""

from __future__ import annotations

from celery_leader.backends.base import Admission, Backend, OnceStore, TransactionalOnceStore
from celery_leader.backends.urls import open_backend

__all__ = ["Admission", "Backend", "OnceStore", "TransactionalOnceStore", "open_backend"]
