"""Periodic tasks that follow the leader."""

from __future__ import annotations
