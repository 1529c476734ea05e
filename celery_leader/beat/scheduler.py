"""The schedulers that follow the leader: ready-made ones, and one from any other."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.beat import PersistentScheduler, Scheduler
from celery.utils.imports import load_extension_class_names, symbol_by_name

from celery_leader.beat.adapters import adapter_for
from celery_leader.beat.mixin import LeaderMixin


def leader_scheduler(base: type[Scheduler] | str) -> type[LeaderMixin]:
    """Return a scheduler class that does what *base* does, on the leader only.

    Args:
        base: A scheduler class, its dotted path, or a short name that ``celery beat -S`` takes, such as ``django``.

    Returns:
        The same class each time, by whatever name *base* is given.
    """
    return _leader_of(symbol_by_name(base, aliases=dict(load_extension_class_names("celery.beat_schedulers"))))


@cache
def _leader_of(base_class: type[Any]) -> type[LeaderMixin]:
    if issubclass(base_class, LeaderMixin):
        return base_class
    has_celerys_mapping = base_class.schedule in (Scheduler.schedule, PersistentScheduler.schedule)
    attributes = {
        "__module__": __name__,
        "uses_heap": all(
            getattr(base_class, name) is getattr(Scheduler, name) for name in ("tick", "populate_heap", "apply_entry")
        ),
        "keeps_entries_as_celery": (
            base_class.is_due is Scheduler.is_due
            and base_class.reserve is Scheduler.reserve
            and has_celerys_mapping  # another may write down what is put into it
        ),
        "keeps_its_schedule": base_class.schedules_equal is Scheduler.schedules_equal and has_celerys_mapping,
    }
    return type(f"Leader{base_class.__name__}", (adapter_for(base_class), base_class), attributes)


LeaderScheduler = leader_scheduler(Scheduler)


def __getattr__(name: str) -> Any:
    if name == "LeaderDatabaseScheduler":  # its base needs Django and the extra "beat"
        return leader_scheduler("django_celery_beat.schedulers:DatabaseScheduler")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
