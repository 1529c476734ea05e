"""Migrations: additive only."""

from __future__ import annotations
