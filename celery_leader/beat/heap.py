"""Celery's heap of entries, from which all that is due is taken at once."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from celery.beat import event_t


class Due(NamedTuple):
    """An entry that is due.

    Attributes:
        event: What the heap holds of it: a time (seconds since the epoch), a priority, and the entry.
        delay: Seconds until it is due again.
    """

    event: Any
    delay: float

    @property
    def entry(self) -> Any:
        """The entry."""
        return self.event.entry


#: What Celery gives every entry.
_PRIORITY = 5


def make(
    entries: Iterable[Any],
    look: Callable[[Any], tuple[bool, float]],
    when: Callable[[Any, float], float],
) -> list[Any]:
    """Return a heap of *entries*.

    Args:
        entries: All that there are.
        look: Tells whether an entry is due, and in how many seconds to look again.
        when: Tells what time it is in so many seconds.
    """
    looks = ((entry, *look(entry)) for entry in entries)
    made = [event_t(when(entry, 0 if is_due else delay), _PRIORITY, entry) for entry, is_due, delay in looks]
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
    too_early: list[tuple[Any, float]] = []
    while heap and len(taken) < most and heap[0][0] <= now:
        event = heapq.heappop(heap)
        is_due, delay = look(event.entry)
        if is_due:
            taken.append(Due(event, delay))
        else:
            too_early.append((event, now + delay))
    for event, time in too_early:  # now, or they would be looked at again and again
        put_later(heap, event, time)
    return taken


def put_back(heap: list[Any], events: Iterable[Any]) -> None:
    """Put *events* on *heap* again, where they were."""
    for event in events:
        heapq.heappush(heap, event)


def put_later(heap: list[Any], event: Any, time: float) -> None:
    """Put the entry of *event* on *heap* again, to be looked at when it is *time*."""
    heapq.heappush(heap, event_t(time, event.priority, event.entry))
