"""Celery's heap of entries, from which all that is due is taken at once."""

from __future__ import annotations

import heapq
from collections.abc import Callable
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


def take_due(
    heap: list[Any],
    *,
    most: int,
    when: Callable[[Any, float], float],
    look: Callable[[Any], tuple[bool, float]],
) -> list[Due]:
    """Take the entries that are due off *heap*, *most* at the most, and return them.

    Args:
        heap: Of ``(time, priority, entry)``.
        most: How many.
        when: Tells the heap's time *seconds* from now, for an entry.
        look: Tells whether an entry is due, and in how many seconds to look again.
    """
    taken: list[Due] = []
    too_early: list[tuple[Any, float]] = []
    while heap and len(taken) < most and heap[0][0] <= when(heap[0][2], 0):
        event = heapq.heappop(heap)
        is_due, delay = look(event[2])
        if is_due:
            taken.append(Due(event[2], event[1], delay))
        else:
            too_early.append((event, delay))
    for event, delay in too_early:  # now, or they would be looked at again and again
        put(heap, when(event[2], delay), event[1], event[2])
    return taken


def put(heap: list[Any], time: float, priority: int, entry: Any) -> None:
    """Put *entry* on *heap*, to be looked at when it is *time*."""
    heapq.heappush(heap, event_t(time, priority, entry))
