"""A base scheduler's entries, with the last runs that the ledger knows."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from functools import cached_property
from types import FunctionType
from typing import TYPE_CHECKING, Any

import celery.schedules
from celery.beat import ScheduleEntry, Scheduler
from celery.schedules import crontab

from celery_leader.beat.claims import Claims
from celery_leader.beat.due_times import due_after, fingerprint, is_interval, share_schedule, utc, where_it_lives
from celery_leader.beat.runs import Planner
from celery_leader.election.limits import shown_value

logger, celerys_logger = logging.getLogger(__name__), logging.getLogger("celery.beat")

#: What no two machines' clocks are apart.
FUTURE = timedelta(hours=1)
#: How long what is known of an entry outlives the entry: as long as a deployment may be rolled back.
KEEP_REMOVED = timedelta(days=7)


def definer(kind: type[Any], name: str) -> type[Any]:
    """Return the class in whose body *name* of *kind* stands, whatever wraps it there; ``object`` if none has it.

    A program that instruments Celery replaces a method where it stands, before or after our classes are made. One that
    overrides it does so in a class of its own.
    """
    return next((parent for parent in kind.__mro__ if name in vars(parent)), object)


def is_untouched(kind: type[Any], name: str) -> bool:
    """Return whether the method *name* of *kind* is the one that its class was made with: nobody has wrapped it."""
    parent = definer(kind, name)
    method, module = vars(parent).get(name), sys.modules.get(parent.__module__)
    return type(method) is FunctionType and method.__code__.co_filename == getattr(module, "__file__", None)


class ScheduleMixin(Scheduler if TYPE_CHECKING else object):  # type: ignore[misc]  # Celery has no types
    """What a leader asks of its base scheduler. Adapters override the first half (see ``beat/adapters.py``)."""

    #: Whether the base scheduler keeps one mapping of entries, as Celery's do; set by ``leader_scheduler``.
    keeps_its_schedule = True
    #: Whether the base scheduler has its own opinion of what is due; set by ``leader_scheduler``.
    decides_what_is_due = False
    #: Whether the base scheduler asks and advances entries as Celery's does; set by ``leader_scheduler``.
    keeps_entries_as_celery = True
    old_schedulers: Any
    _planner: Planner
    _has_schedule = False
    _is_unobserved = False
    _edits = 0
    _schedule_seen: tuple[Any, int, int] | None = None
    _future_told: datetime | None = None

    def begin_term(self) -> None:
        """Get the base ready to send; here: have it read its schedule, once."""
        if not self._has_schedule:
            self.setup_schedule()
            self._has_schedule = True

    def step_back(self) -> None:
        """Give up what must not be kept while others lead. Called again and again on a standby."""

    def find_entry(self, name: str) -> Any:
        """Return the entry *name* as it is now, None when there is none."""
        return self.schedule.get(name)

    def due_time(self, entry: Any, now: datetime) -> datetime | None:
        """Return since when *entry*, which is due at *now*, has been so (UTC); None means since now."""
        return due_after(entry.schedule, entry.last_run_at, now)

    def ask(self, entry: Any) -> Any:
        """Return what the base says of *entry*: whether it is due, and in how many seconds to look again.

        For plain intervals by arithmetic, which takes a third of the time, unless somebody wants to be asked.
        """
        schedule, last_run = entry.schedule, entry.last_run_at
        has_zone = last_run is not None and last_run.tzinfo is not None
        if not (self._is_unobserved and type(entry) is ScheduleEntry and is_interval(schedule) and has_zone):
            return super().is_due(entry)
        left = (utc(last_run) + schedule.run_every - utc(schedule.now())).total_seconds()
        return (True, schedule.seconds) if left <= 0 else (False, left)

    def makes_new(self, entry: Any) -> bool:
        """Return whether another entry takes the place of *entry* when it has run; see Celery's ``reserve``.

        Celery copies it, so that an error between here and sending leaves the old one. Ours is claimed by then.
        """
        return not (self._is_unobserved and type(entry) is ScheduleEntry)

    def look_for_observers(self) -> None:
        """Find out whether Celery's own code decides what is due and what has run, and nobody else is asked."""
        own = ((Scheduler, "is_due"), (Scheduler, "reserve"), (ScheduleEntry, "is_due"), (ScheduleEntry, "__next__"),
               (celery.schedules.schedule, "is_due"))  # fmt: skip
        self._is_unobserved = self.keeps_entries_as_celery and all(is_untouched(*each) for each in own)

    def judge(self, entry: Any, now: datetime, is_due: bool, delay: Any) -> tuple[bool, Any]:
        """Return what to make of the base's answer whether *entry* is due, and when to look again.

        A crontab is due by the time that its ticks are named by: Celery thinks otherwise in the hour that comes twice
        when clocks are set back, and before 5.7 after midnight.
        """
        if not isinstance(entry.schedule, crontab) or entry.last_run_at is None or self.decides_what_is_due:
            return is_due, delay
        due = self.due_time(entry, now)
        left = (due - utc(now)).total_seconds() if due else 0.0
        if is_due and left > 0:
            return False, left
        asks_only_the_schedule = (
            definer(type(entry), "is_due") is ScheduleEntry and definer(type(entry.schedule), "is_due") is crontab
        )
        if not is_due and left <= 0 and asks_only_the_schedule and self.app.conf.beat_cron_starting_deadline is None:
            following = due_after(entry.schedule, now, now)
            return True, (following - utc(now)).total_seconds() if following else delay
        return is_due, delay

    def _is_due_failed(self, entry: Any) -> tuple[bool, float]:
        """Say that it can't be told when *entry* is due, and look again later; Celery before 5.7 would end."""
        if definer(Scheduler, "_is_due_failed") is Scheduler:
            failed: tuple[bool, float] = super()._is_due_failed(entry)
            return failed
        celerys_logger.error("beat: Cannot calculate the next run of %r, trying again in %s s.", entry.name,
                             self.max_interval, exc_info=True)  # noqa: LOG014  # called while it is handled  # fmt: skip
        return False, self.max_interval

    def still_exist(self, names: Collection[str]) -> Collection[str]:
        """Return which of *names*, which are not in the schedule at the moment, may come back."""
        return ()

    def set_last_run(self, entry: Any, last_run_at: datetime, total_run_count: int) -> None:
        """Let *entry* have run at *last_run_at* for the last time."""
        entry.last_run_at = last_run_at
        entry.total_run_count = total_run_count

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Return whether no entry came, went or changed; see :meth:`celery.beat.Scheduler.schedules_equal`.

        Celery compares all entries with a copy of theirs on each tick, which makes 10,000 of them slow. A schedule in
        memory changes by this class's methods, or by entries that come and go. What else a base does only it can tell.
        """
        if not self.keeps_its_schedule or new_schedules is not self.schedule:
            return bool(super().schedules_equal(old_schedules, new_schedules))
        return not self._notes_new_schedule()

    def _notes_new_schedule(self) -> bool:
        """Note the schedule as it is; return whether it is another than the one noted before."""
        seen, schedule = self._schedule_seen, self.schedule
        now = self._schedule_seen = (schedule, len(schedule), self._edits)
        # The mapping itself is kept: a file that is written and read again makes another, of the same id perhaps.
        return seen is None or seen[0] is not now[0] or seen[1:] != now[1:]

    # -- last runs -----------------------------------------------------------------------------------------------

    def _know(self, claims: Claims, entries: Iterable[Any]) -> None:
        """Set *entries* to their last runs in the ledger; note those that it does not know, or knew otherwise."""
        unknown = [entry for entry in entries if not self.recall(claims, share_schedule(entry, self._schedules))]
        claims.start_afresh(
            self._planner.first_sight(entry, claims.get(entry.name)) for entry in unknown if entry.last_run_at
        )

    def recall(self, claims: Claims, entry: Any) -> bool:
        """Set *entry* to its last run in the ledger; return whether there is one, of the same schedule."""
        claim = claims.get(entry.name)
        if claim is None or claim.schedule != fingerprint(entry.schedule):
            return False
        self.set_last_run(entry, where_it_lives(entry.schedule, claim.claimed_at), claim.run_count)
        return True

    def _prune(self, claims: Claims, schedule: Any) -> None:
        """Drop what is known of entries that went long ago."""
        before = utc(self._now()) - KEEP_REMOVED
        waiting = {claim.tick.entry for claim in claims.unsent()}
        old = [claim.tick.entry for claim in claims.all() if claim.claimed_at < before]
        removed = {name for name in old if name not in schedule and name not in waiting}
        if gone := removed.difference(self.still_exist(removed) if removed else ()):
            claims.drop(sorted(gone))

    def warn_of_the_future(self, claims: Claims) -> None:
        """Say so when entries ran last at a time that is still to come: a wrong clock said it, and they wait for it.

        To send them before would be to send ticks twice if it is this machine's clock that is wrong.
        """
        horizon = utc(self._now()) + FUTURE
        ahead = {claim.claimed_at: claim.tick.entry for claim in claims.all() if claim.claimed_at > horizon}
        latest = max(ahead, default=None)
        if latest and latest != self._future_told:
            logger.error("Entries ran last in the future, by this machine's clock: %s at %s, for one. They are not due "
                         "before. If a clock was wrong then, end all beats and delete what the ledger has of them "
                         '("A clock was set ahead" in the how-to).', shown_value(ahead[latest]), latest)  # fmt: skip
        self._future_told = latest

    def add(self, **kwargs: Any) -> Any:
        """See :meth:`celery.beat.Scheduler.add`."""
        self._edits += 1
        return super().add(**kwargs)

    def update_from_dict(self, dict_: Any) -> None:
        """See :meth:`celery.beat.Scheduler.update_from_dict`."""
        self._edits += 1
        super().update_from_dict(dict_)

    def merge_inplace(self, b: Any) -> None:
        """See :meth:`celery.beat.Scheduler.merge_inplace`."""
        self._edits += 1
        super().merge_inplace(b)

    @cached_property
    def _schedules(self) -> dict[str, Any]:
        """Equal schedules, which entries share."""
        return {}

    def _now(self) -> datetime:
        now: datetime = self.app.now()
        return now if now.tzinfo else now.replace(tzinfo=self.app.timezone)
