"""Celery's heap of entries, from which all that is due is taken at once."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from celery.beat import event_t


class Due(NamedTuple):
    """An entry that is due.

    Attributes:
        entry: The entry.
        priority: Its place among those that are due at once.
        delay: Seconds until it is due again.
    """

    entry: Any
    priority: int
    delay: float


#: What Celery gives every entry.
_PRIORITY = 5


def make(entries: Iterable[Any], now: float, look: Callable[[Any], tuple[bool, float]]) -> list[Any]:
    """Return a heap of *entries*; see :func:`take_due` for the rest."""
    looks = ((entry, *look(entry)) for entry in entries)
    made = [event_t(now + (0 if is_due else delay), _PRIORITY, entry) for entry, is_due, delay in looks]
    heapq.heapify(made)
    return made


def take_due(heap: list[Any], now: float, look: Callable[[Any], tuple[bool, float]], *, most: int) -> list[Due]:
    """Take the entries that are due off *heap* and return them.

    Args:
        heap: Of ``(time, priority, entry)``; times are seconds since the epoch.
        now: The time.
        look: Tells whether an entry is due, and in how many seconds to look again.
        most: How many to take at the most.
    """
    taken: list[Due] = []
    too_early: list[tuple[float, int, Any]] = []
    while heap and len(taken) < most and heap[0][0] <= now:
        _, priority, entry = heapq.heappop(heap)
        is_due, delay = look(entry)
        if is_due:
            taken.append(Due(entry, priority, delay))
        else:
            too_early.append((now + delay, priority, entry))
    for time, priority, entry in too_early:  # now, or they would be looked at again and again
        put(heap, time, priority, entry)
    return taken


def put(heap: list[Any], time: float, priority: int, entry: Any) -> None:
    """Put *entry* on *heap*, to be looked at when it is *time*."""
    heapq.heappush(heap, event_t(time, priority, entry))
