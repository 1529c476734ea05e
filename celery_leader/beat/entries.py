"""A base scheduler's entries, with the last runs that the ledger knows."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from types import FunctionType
from typing import Any, NamedTuple

import celery.schedules
from celery.beat import ScheduleEntry, Scheduler
from celery.schedules import crontab

from celery_leader.beat.base import Base
from celery_leader.beat.claims import Claims
from celery_leader.beat.due_times import Entry, StoppedClocks, due_after, is_interval, share_schedule, utc
from celery_leader.beat.runs import Planner
from celery_leader.election.limits import shown_value
from celery_leader.older_celery import is_due_failed

logger = logging.getLogger(__name__)

#: More than any two machines' clocks differ.
FUTURE = timedelta(hours=1)
#: How long a claim outlives its entry: as long as a deployment may be rolled back.
KEEP_REMOVED = timedelta(days=7)


def definer(kind: type[Any], name: str) -> type[Any]:
    """Return the class in whose body *name* of *kind* stands, wrapped or not; ``object`` if none has it.

    A program that instruments Celery replaces a method where it stands, before or after our classes are made. A
    program that overrides the method has a class of its own.
    """
    return next((parent for parent in kind.__mro__ if name in vars(parent)), object)


def is_untouched(kind: type[Any], name: str) -> bool:
    """Return whether no program has wrapped the method *name* of *kind*."""
    parent = definer(kind, name)
    method, module = vars(parent).get(name), sys.modules.get(parent.__module__)
    return type(method) is FunctionType and method.__code__.co_filename == getattr(module, "__file__", None)


class Traits(NamedTuple):
    """A base scheduler's own ways, by the methods that it overrides."""

    #: It makes its heap as Celery does.
    has_celerys_heap: bool
    #: It decides itself which entries are due.
    decides_what_is_due: bool
    #: Its ``sync`` writes, which Celery's own does not.
    has_to_write: bool
    #: It asks and advances entries as Celery does. Another mapping may store each entry that it is given.
    keeps_entries_as_celery: bool
    #: It keeps one mapping of entries, as Celery does.
    keeps_its_schedule: bool

    @classmethod
    def of(cls, base: type[Any]) -> Traits:
        """Return those of the scheduler class *base*."""
        asked = ("populate_heap", "is_due", "reserve", "schedule", "schedules_equal", "sync")
        celerys = {name for name in asked if definer(base, name) is Scheduler}
        return cls(
            has_celerys_heap="populate_heap" in celerys,
            decides_what_is_due="is_due" not in celerys,
            has_to_write="sync" not in celerys,
            keeps_entries_as_celery={"is_due", "reserve", "schedule"} <= celerys,
            keeps_its_schedule={"schedule", "schedules_equal"} <= celerys,
        )


class Entries:
    """A base scheduler's entries: which of them are due, and when they ran last according to the ledger."""

    def __init__(self, scheduler: Base, traits: Traits, planner: Planner, is_due: Callable[[Entry], Any]) -> None:
        """Prepare.

        Args:
            scheduler: The scheduler.
            traits: Its base's.
            planner: Names their runs.
            is_due: The base's own method.
        """
        #: Names their runs.
        self.planner = planner
        self._scheduler = scheduler
        self._traits = traits
        self._is_due = is_due
        self._has_shortcuts = False
        self._schedules: dict[str, Any] = {}  # equal ones, which entries share
        self._edits = 0
        self._seen: tuple[Any, int, int] | None = None
        self._ahead: datetime | None = None

    # -- due entries ---------------------------------------------------------------------------------------------

    def look(self, clocks: StoppedClocks, entry: Entry) -> tuple[bool, float]:
        """Return whether the base takes *entry* for due at *clocks*' moment, and in how many seconds to look again."""
        try:
            clocks.stop(entry.schedule)
            is_due, delay = self._judge(entry, clocks.now, *self._ask(entry))
        except Exception:  # noqa: BLE001  # logged there; it must not stop the others
            return is_due_failed(self._scheduler, entry)
        return is_due, delay if isinstance(delay, (int, float)) else self._scheduler.max_interval

    def allow_shortcuts(self) -> None:
        """Allow shortcuts if nothing overrides or wraps Celery's ``is_due`` and ``reserve``."""
        own = ((Scheduler, "is_due"), (Scheduler, "reserve"), (ScheduleEntry, "is_due"), (ScheduleEntry, "__next__"),
               (celery.schedules.schedule, "is_due"))  # fmt: skip
        self._has_shortcuts = self._traits.keeps_entries_as_celery and all(is_untouched(*each) for each in own)

    def makes_new(self, entry: Entry) -> bool:
        """Return whether another entry takes the place of *entry* when it has run; see Celery's ``reserve``.

        Celery copies it, so that an error between here and sending leaves the old one. Ours is claimed by then.
        """
        return not (self._has_shortcuts and type(entry) is ScheduleEntry)

    def _ask(self, entry: Entry) -> Any:
        """Return the base's answer for *entry*: whether it is due, and in how many seconds to look again.

        For plain intervals by arithmetic, which takes a third of the time, unless other code wraps the question.
        """
        schedule, last_run = entry.schedule, entry.last_run_at
        is_plain = self._has_shortcuts and type(entry) is ScheduleEntry and is_interval(schedule)
        if not is_plain or last_run is None or last_run.tzinfo is None:
            return self._is_due(entry)
        left = (utc(last_run) + schedule.run_every - utc(schedule.now())).total_seconds()
        return (True, schedule.seconds) if left <= 0 else (False, left)

    def _judge(self, entry: Entry, now: datetime, is_due: bool, delay: Any) -> tuple[bool, Any]:
        """Correct the base's answer whether *entry* is due, and when to look again.

        A crontab is due at the due time of its tick. Celery says otherwise in the hour that comes twice when clocks are
        set back, and some of its versions after midnight.
        """
        if not isinstance(entry.schedule, crontab) or entry.last_run_at is None or self._traits.decides_what_is_due:
            return is_due, delay
        due = self._scheduler.due_time(entry, now)
        left = (due - utc(now)).total_seconds() if due else 0.0
        if is_due and left > 0:
            return False, left
        asks_only_the_schedule = (
            definer(type(entry), "is_due") is ScheduleEntry and definer(type(entry.schedule), "is_due") is crontab
        )
        has_deadline = self._scheduler.app.conf.beat_cron_starting_deadline is not None
        if not is_due and left <= 0 and asks_only_the_schedule and not has_deadline:
            following = due_after(entry.schedule, now, now)
            return True, (following - utc(now)).total_seconds() if following else delay
        return is_due, delay

    # -- changes -------------------------------------------------------------------------------------------------

    def note_edit(self) -> None:
        """Note that an entry was added or replaced."""
        self._edits += 1

    def have_changed(self) -> bool:
        """Note the schedule as it is; return whether it is another than the one noted before.

        Celery compares all entries with a copy of theirs on each tick, which makes 10,000 of them slow. A schedule in
        memory changes by the scheduler's own methods, or by entries that come and go.
        """
        seen, schedule = self._seen, self._scheduler.schedule
        self._seen = (schedule, len(schedule), self._edits)  # the mapping itself: another may have the same id
        return seen is None or seen[0] is not schedule or seen[1:] != self._seen[1:]

    # -- last runs -----------------------------------------------------------------------------------------------

    def know(self, claims: Claims, entries: Iterable[Entry]) -> None:
        """Set *entries* to their last runs in the ledger; add those that it lacks, or has of another schedule."""
        shared = (share_schedule(entry, self._schedules) for entry in entries)
        unknown = [entry for entry in shared if not self._scheduler.recall(claims, entry)]
        claims.start_afresh(
            self.planner.first_sight(entry, entry.last_run_at, claims.get(entry.name))
            for entry in unknown
            if entry.last_run_at
        )

    def prune(self, claims: Claims, schedule: Collection[str]) -> None:
        """Drop the claims of entries that were removed long ago."""
        before = utc(self._scheduler.now()) - KEEP_REMOVED
        waiting = {claim.tick.entry for claim in claims.unsent()}
        old = [claim.tick.entry for claim in claims.all() if claim.claimed_at < before]
        removed = {name for name in old if name not in schedule and name not in waiting}
        if gone := removed.difference(self._scheduler.still_exist(removed) if removed else ()):
            claims.drop(sorted(gone))

    def warn_of_the_future(self, claims: Claims) -> None:
        """Log entries whose last run is in the future: a clock was wrong, and they wait for that time.

        Sent earlier, their ticks would come twice if this machine's clock is the wrong one.
        """
        horizon = utc(self._scheduler.now()) + FUTURE
        ahead = {claim.claimed_at: claim.tick.entry for claim in claims.all() if claim.claimed_at > horizon}
        latest = max(ahead, default=None)
        if latest and latest != self._ahead:
            logger.error("Entries ran last in the future, by this machine's clock: %s at %s, for one. They are not due "
                         "before. If a clock was wrong then, end all beats and delete what the ledger has of them "
                         '("A clock was set ahead" in the how-to).', shown_value(ahead[latest]), latest)  # fmt: skip
        self._ahead = latest
