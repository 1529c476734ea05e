"""The runs that are due together: claimed in one call of the ledger, sent one by one by the base's own ``tick``."""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from celery.beat import event_t

from celery_leader.beat.base import Base, Event, Heap
from celery_leader.beat.claims import Claims
from celery_leader.beat.due_times import Entry, utc
from celery_leader.beat.runs import Planner, Run
from celery_leader.election.limits import shown_value
from celery_leader.ledger import BATCH, Claim

logger = logging.getLogger(__name__)

#: For how long (seconds) an entry is left alone whose run can't be claimed or sent now.
PAUSE = 1.0


class _Due(NamedTuple):
    """An entry that is due.

    Attributes:
        event: What the heap holds of it: a time (seconds since the epoch), a priority, and the entry.
        delay: Seconds until it is due again.
    """

    event: Event
    delay: float

    @property
    def entry(self) -> Entry:
        """The entry."""
        entry: Entry = self.event.entry
        return entry


class _Claimed(NamedTuple):
    run: Run
    due: _Due


class Batch:
    """What one tick of a leader claims together.

    Celery's ``tick`` asks whether the first entry of its heap is due, sends it, and puts it back on the heap. When it
    asks, everything that is due is claimed. From then on the heap holds one claimed entry at a time, and ``tick`` is
    called once for each of them. A base with a ``tick`` of its own that knows no heap claims its runs one by one.
    """

    def __init__(
        self,
        scheduler: Base,
        planner: Planner,
        claims: Claims,
        now: datetime,
        *,
        look: Callable[[Entry], tuple[bool, float]],
        claim: Callable[[Sequence[Run]], list[bool]],
        can_send: Callable[[Claim], bool],
    ) -> None:
        """Begin an empty one.

        Args:
            scheduler: The scheduler, with its base's heap.
            planner: Names its entries' runs.
            claims: The term's.
            now: The moment of the tick.
            look: Tells whether an entry is due, and in how many seconds to look again.
            claim: Makes runs the term's; tells for each whether it is.
            can_send: Tells whether the run of a claim can be sent now.
        """
        #: The moment of the tick.
        self.now = now
        #: Why nothing could be claimed. Celery's ``tick`` would take it for a fault of the entry that it asked about.
        self.error: Exception | None = None
        self._scheduler = scheduler
        self._planner = planner
        self._claims = claims
        self._look = look
        self._claim = claim
        self._can_send = can_send
        self._timestamp = now.timestamp()
        self._claimed: dict[str, _Claimed] = {}  # and not sent yet
        self._advanced: tuple[Entry, float] | None = None
        self._queue: deque[Event] = deque()  # their events, which the heap will hold one by one
        self._shown: Heap | None = None  # the base's heap, with one claimed entry in it
        self._last: Event = None  # the event that it showed last
        self._rest: Heap = []  # a heap of all others
        self._is_held = False
        self._is_outdated = False

    @property
    def is_under_way(self) -> bool:
        """Whether there are claimed runs that are not sent yet."""
        return bool(self._claimed)

    def is_due(self, entry: Entry) -> tuple[bool, float]:
        """Return whether the base is to send *entry* now, and in how many seconds to look again."""
        if entry.name not in self._claimed:
            entries = self._scheduler.heap
            if not entries or entries[0].entry is not entry:
                return self._look(entry) if self._claims.may_claim(entry.name) else (False, PAUSE)
            self._claim_all_due(entries)
            if entry.name not in self._claimed:
                return False, max(0.0, entries[0].time - self._timestamp)
        run, due = self._claimed[entry.name]
        self._is_held = not self._can_send(run.claim)
        return (False, PAUSE) if self._is_held else (True, due.delay)

    def take(self, entry: Entry) -> Run | None:
        """Return the claimed run of *entry*, which is sent now; None when there is none."""
        claimed = self._claimed.pop(entry.name, None)
        return claimed and claimed.run

    def advance(self, entry: Entry, advanced: Entry) -> None:
        """Give *advanced*, which takes the place of *entry*, the time and the count of the run just claimed."""
        if entry.name not in self._claimed:
            return
        run, due = self._claimed[entry.name]
        self._scheduler.set_last_run(advanced, run.last_run_at, run.claim.run_count)
        if run.by_due_time:
            self._advanced = advanced, self._seconds_to_next(advanced, due.delay)

    def when(self, entry: Entry, delay: float) -> float:
        """Return when (seconds since the epoch) to look at *entry* again, for which the base has *delay* in mind."""
        advanced, self._advanced = self._advanced, None
        wait = advanced[1] if advanced and advanced[0] is entry else self._scheduler.adjust(delay) or 0
        return self._timestamp + wait

    def show_next(self) -> bool:
        """Let the base's heap hold the next claimed entry.

        Returns:
            False when none is left, the shown one can't be sent now, or the base did not take the one before.
        """
        entries = self._shown
        if self._is_held or not self._claimed or entries is None or entries is not self._scheduler.heap:
            return False
        while self._queue[0].entry.name not in self._claimed:
            self._queue.popleft()
        if self._queue[0] is self._last:
            return False
        self._hide(entries)
        self._last = self._queue[0]
        entries[:] = [self._last]
        return True

    def end(self) -> bool:
        """Let the base's heap hold everything again.

        Returns:
            False when a claimed run was not sent, or claiming failed: the heap has to be made anew.
        """
        if self._shown is not None and self._shown is self._scheduler.heap:
            self._hide(self._shown)
            self._shown[:] = self._rest
        return not (self._claimed or self._is_outdated or self.error)

    def _hide(self, entries: Heap) -> None:
        """Move the events from the base's heap to the rest, except those of claimed and unsent runs."""
        _put_back(self._rest, [event for event in entries if event.entry.name not in self._claimed])

    def _claim_all_due(self, entries: Heap) -> None:
        """Claim the runs of all that is due on the base's heap, which holds one of them afterwards."""
        found = _take_due(entries, self._timestamp, self._look, most=BATCH)
        try:
            self._claim_found(entries, found)
        except Exception as error:  # noqa: BLE001  # raised again behind the base's tick
            self.error = error
            _put_back(entries, [due.event for due in found])
            return
        if self._claimed:
            self._shown, self._rest = entries, entries[:]
            entries[:] = [self._queue[0]]

    def _claim_found(self, entries: Heap, found: Sequence[_Due]) -> None:
        planned = [(due, run) for due in found if (run := self._planned(entries, due))]
        if not planned:
            return
        accepted = self._claim([run for _, run in planned])
        for (due, run), is_ours in zip(planned, accepted, strict=True):
            if is_ours:
                self._take_ours(entries, due, run)
            else:
                _put_later(entries, due.event, self._timestamp + PAUSE)
                self._is_outdated |= self._claims.can_keep(run.entry.name)

    def _planned(self, entries: Heap, due: _Due) -> Run | None:
        """Return the run to claim; None, and look again later, if the run before waits or planning fails."""
        wait = PAUSE
        if self._claims.may_claim(due.entry.name):
            try:
                return self._planner.run(due.entry, self.now)
            except Exception:  # it must not stop the others
                logger.exception("The run of %s can't be planned; the next try is later", shown_value(due.entry.name))
                wait = self._scheduler.max_interval
        _put_later(entries, due.event, self._timestamp + wait)
        return None

    def _take_ours(self, entries: Heap, due: _Due, run: Run) -> None:
        if run.claim.sent:  # let go
            self._scheduler.set_last_run(run.entry, run.last_run_at, run.claim.run_count)
            _put_later(entries, due.event, self._timestamp + self._seconds_to_next(run.entry, due.delay))
        else:
            self._claimed[due.entry.name] = _Claimed(run, due)
            self._queue.append(due.event)

    def _seconds_to_next(self, entry: Entry, delay: float) -> float:
        """Return in how many seconds *entry*, whose runs are counted by due time, is due; *delay* if nothing tells."""
        due = self._scheduler.due_time(entry, self.now)
        return max(0.0, (due - utc(self.now)).total_seconds()) if due else delay


#: What Celery gives every entry.
_PRIORITY = 5


def make_heap(
    entries: Iterable[Entry],
    look: Callable[[Entry], tuple[bool, float]],
    when: Callable[[Entry, float], float],
) -> Heap:
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


def _take_due(heap: Heap, now: float, look: Callable[[Entry], tuple[bool, float]], *, most: int) -> list[_Due]:
    """Take the entries that are due off *heap* and return them.

    Args:
        heap: Of ``(time, priority, entry)``; times are seconds since the epoch.
        now: The time.
        look: Tells whether an entry is due, and in how many seconds to look again.
        most: How many to take at the most.
    """
    taken: list[_Due] = []
    too_early: list[tuple[Event, float]] = []
    while heap and len(taken) < most and heap[0][0] <= now:
        event = heapq.heappop(heap)
        is_due, delay = look(event.entry)
        if is_due:
            taken.append(_Due(event, delay))
        else:
            too_early.append((event, now + delay))
    for event, time in too_early:  # now, or they would be looked at again and again
        _put_later(heap, event, time)
    return taken


def _put_back(heap: Heap, events: Iterable[Event]) -> None:
    """Put *events* on *heap* again, where they were."""
    for event in events:
        heapq.heappush(heap, event)


def _put_later(heap: Heap, event: Event, time: float) -> None:
    """Put the entry of *event* on *heap* again, to be looked at when it is *time*."""
    heapq.heappush(heap, event_t(time, event.priority, event.entry))
