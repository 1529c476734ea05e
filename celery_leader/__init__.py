"""Leader election for Celery workers.

Importing this package imports neither Celery nor a store: the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_leader.app import setup
    from celery_leader.leadership.state import current_term, fencing_token, get_leader, is_leader
    from celery_leader.tasks.leader_only import leader_only
    from celery_leader.tasks.once_per_tick import once_per_tick

__version__ = "0.1.0"

__all__ = ["current_term", "fencing_token", "get_leader", "is_leader", "leader_only", "once_per_tick", "setup"]

_HOMES = {
    "setup": "celery_leader.app",
    "current_term": "celery_leader.leadership.state",
    "fencing_token": "celery_leader.leadership.state",
    "get_leader": "celery_leader.leadership.state",
    "is_leader": "celery_leader.leadership.state",
    "leader_only": "celery_leader.tasks.leader_only",
    "once_per_tick": "celery_leader.tasks.once_per_tick",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
