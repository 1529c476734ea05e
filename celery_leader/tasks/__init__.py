"""Guards of tasks: those that run on the leader only, and those that run each tick once."""

from __future__ import annotations
