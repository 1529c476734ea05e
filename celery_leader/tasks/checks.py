"""What a worker checks of its app's guarded tasks before the first message comes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any

from celery import Celery, Task

from celery_leader.exceptions import ConfigurationError
from celery_leader.tasks.guarding import guard_on
from celery_leader.tasks.leader_only import LeaderOnly, mark_of
from celery_leader.tasks.once_per_tick import is_atomic
from celery_leader.tasks.patient_store import once_store_of

logger = logging.getLogger(__name__)

#: The attributes of a function that name its guards.
_MARKS = ("__leader_only__", "__once_per_tick__")


def each_guarded_task(app: Celery) -> Iterator[tuple[Task, LeaderOnly]]:
    """Return the tasks of *app* that run on a leader only."""
    for task in list(app.tasks.values()):
        if mark := mark_of(task):
            yield task, mark


def check_atomic_tasks(app: Celery) -> None:
    """Check that the store can do what ``@once_per_tick(atomic=True)`` promises, if a task of *app* asks for it.

    Raises:
        ConfigurationError: It can't.
    """
    for task in list(app.tasks.values()):
        if is_atomic(task):
            try:
                once_store_of(app).require_transactions()
            except ConfigurationError as error:
                raise ConfigurationError(f"{task.name}: {error}") from error


def check_overridden_guards(app: Celery) -> None:
    """Check that no task of *app* replaces a guarded ``run`` by one without a guard.

    Raises:
        ConfigurationError: A task does.
    """
    for task, mark in product(list(app.tasks.values()), _MARKS):
        runs = {base: getattr(base, "run", None) for base in reversed(type(task).__mro__)}
        base = next((base for base, run in runs.items() if hasattr(run, mark)), None)
        if base and not guard_on(task, mark):
            guard = f"@{getattr(runs[base], mark).decorator}"
            raise ConfigurationError(
                f"{task.name} replaces the run of {base.__qualname__}, which {guard} guards, by one without a guard. "
                f"Put {guard} on that, too; or above the class {base.__qualname__}, and define run in the body of "
                "each subclass."
            )


def tell_of_hidden_guards(app: Celery) -> None:
    """Warn of tasks of *app* whose guarded function is hidden by another decorator."""
    for task, mark in product(list(app.tasks.values()), _MARKS):
        if guard_on(task, mark):
            continue
        for function in _enclosed(task.run):
            if hidden := getattr(function, mark, None):
                logger.warning(
                    "%s is not guarded: a decorator stands between it and %s, which @%s guards, and hides the guard. "
                    "Use functools.wraps in that decorator.",
                    task.name, function.__qualname__, hidden.decorator,
                )  # fmt: skip
                break


def _enclosed(function: Any, deepest: int = 5) -> Iterator[Any]:
    """Yield the functions in the closure of *function*, and those in their closures."""
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # it is empty
            if hasattr(found := cell.cell_contents, "__closure__"):
                yield found
                if deepest:
                    yield from _enclosed(found, deepest - 1)
