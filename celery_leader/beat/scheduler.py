"""The schedulers that follow the leader: ready-made ones, and one from any other."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.beat import PersistentScheduler, Scheduler
from celery.utils.imports import load_extension_class_names, symbol_by_name

from celery_leader.beat.adapters import adapter_for
from celery_leader.beat.entries import Traits
from celery_leader.beat.gate import LeaderMixin
from celery_leader.refusal import StartRefused


def leader_scheduler(base: type[Scheduler] | str) -> type[LeaderMixin]:
    """Return a scheduler class that does what *base* does, on the leader only.

    Args:
        base: A scheduler class, its dotted path, or a short name that ``celery beat -S`` takes, such as ``django``.

    Returns:
        The same class each time, by whatever name *base* is given.

    Raises:
        StartRefused: There is no class of that name, it can't be imported, or it is no scheduler.
    """
    try:
        return _leader_of(symbol_by_name(base, aliases=dict(load_extension_class_names("celery.beat_schedulers"))))
    except Exception as error:
        if isinstance(error, StartRefused):
            raise
        raise StartRefused(
            f"The scheduler {base!r} can't be used: {type(error).__name__}: {str(error).rstrip('.')}. Name its "
            "class, such as celery.beat:Scheduler, in leader_beat_scheduler or after -S, and install what it needs."
        ) from error


@cache
def _leader_of(base_class: type[Any]) -> type[LeaderMixin]:
    if issubclass(base_class, LeaderMixin):
        return base_class
    if not issubclass(base_class, Scheduler):
        raise TypeError(f"{base_class.__qualname__} is no celery.beat.Scheduler")
    if base_class is PersistentScheduler:  # adds a file of last runs, which a leader has in its ledger
        return _leader_of(Scheduler)
    if issubclass(base_class, PersistentScheduler):
        raise TypeError("it keeps last runs in a file of one machine, and a leader's are in its ledger: derive it from "
                        "celery.beat.Scheduler instead of PersistentScheduler")  # fmt: skip
    attributes = {"__module__": __name__, "traits": Traits.of(base_class)}
    return type(f"Leader{base_class.__name__}", (adapter_for(base_class), base_class), attributes)


LeaderScheduler = leader_scheduler(Scheduler)


def __getattr__(name: str) -> Any:
    if name == "LeaderDatabaseScheduler":  # its base needs Django and the extra "beat"
        return leader_scheduler("django_celery_beat.schedulers:DatabaseScheduler")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
