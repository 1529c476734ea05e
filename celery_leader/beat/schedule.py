"""A base scheduler's entries, with the last runs that the ledger knows."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from copy import copy
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.beat import ScheduleEntry, Scheduler
from celery.schedules import crontab

from celery_leader.beat.claims import Claims
from celery_leader.beat.runs import Planner
from celery_leader.beat.ticks import due_after, fingerprint, is_interval, share_schedule, utc
from celery_leader.election.limits import shown_value

logger = logging.getLogger(__name__)

#: What no two machines' clocks are apart.
FUTURE = timedelta(hours=1)
#: How long what is known of an entry outlives the entry: as long as a deployment may be rolled back.
KEEP_REMOVED = timedelta(days=7)


class ScheduleMixin(Scheduler if TYPE_CHECKING else object):  # type: ignore[misc]  # Celery has no types
    """What a leader asks of its base scheduler. Adapters override the first half (see ``beat/adapters.py``)."""

    #: Whether the base scheduler keeps one mapping of entries, as Celery's do; set by ``leader_scheduler``.
    keeps_its_schedule = True
    #: Whether the base scheduler asks and advances entries as Celery's does; set by ``leader_scheduler``.
    keeps_entries_as_celery = True
    old_schedulers: Any
    _planner: Planner
    _has_schedule = False
    _edits = 0
    _schedule_seen: tuple[Any, int, int] | None = None
    _future_told: datetime | None = None

    def begin_term(self) -> None:
        """Get the base ready to send; here: have it read its schedule, once."""
        if not self._has_schedule:
            super().setup_schedule()
            self._has_schedule = True

    def step_back(self) -> None:
        """Give up what must not be kept while others lead. Called again and again on a standby."""

    def find_entry(self, name: str) -> Any:
        """Return the entry *name* as it is now, None when there is none."""
        return self.schedule.get(name)

    def due_time(self, entry: Any, now: datetime) -> datetime | None:
        """Return since when *entry*, which is due at *now*, has been so (UTC); None means since now."""
        return due_after(entry.schedule, entry.last_run_at, now)

    def is_due(self, entry: Any) -> Any:
        """See :meth:`celery.beat.Scheduler.is_due`.

        For plain intervals by our own arithmetic: in a third of the time, and in UTC. Celery before 5.7 adds them to
        the time on the wall, and skips an hour of them when clocks are set back.
        """
        schedule, last_run = entry.schedule, entry.last_run_at
        if not (self._is_celerys(entry) and is_interval(schedule) and last_run and last_run.tzinfo):
            return super().is_due(entry)
        left = (utc(last_run) + schedule.run_every - utc(schedule.now())).total_seconds()
        return (True, schedule.seconds) if left <= 0 else (False, left)

    def advance(self, entry: Any) -> Any:
        """Return the entry to go on with once a run of *entry* is claimed; see :meth:`celery.beat.Scheduler.reserve`.

        Celery copies it, so that an error between here and sending leaves the old one; we claim first.
        """
        return entry if self._is_celerys(entry) else self.reserve(entry)

    def _is_celerys(self, entry: Any) -> bool:
        return self.keeps_entries_as_celery and type(entry) is ScheduleEntry

    def judge(self, entry: Any, now: datetime, is_due: bool, delay: Any) -> tuple[bool, Any]:
        """Return what to make of the base's answer whether *entry* is due, and when to look again.

        A crontab is due by the time that its ticks are named by: Celery thinks otherwise in the hour that comes twice
        when clocks are set back, and before 5.7 after midnight.
        """
        if not isinstance(entry.schedule, crontab) or entry.last_run_at is None:
            return is_due, delay
        due = self.due_time(entry, now)
        left = (due - utc(now)).total_seconds() if due else 0.0
        if is_due and left > 0:
            return False, left
        asks_only_the_schedule = type(entry).is_due is ScheduleEntry.is_due
        if not is_due and left <= 0 and asks_only_the_schedule and self.app.conf.beat_cron_starting_deadline is None:
            following = due_after(entry.schedule, now, now)
            return True, (following - utc(now)).total_seconds() if following else delay
        return is_due, delay

    def still_exist(self, names: Collection[str]) -> Collection[str]:
        """Return which of *names*, which are not in the schedule at the moment, may come back."""
        return ()

    def set_last_run(self, entry: Any, last_run_at: datetime, total_run_count: int) -> None:
        """Let *entry* have run at *last_run_at* for the last time."""
        entry.last_run_at = last_run_at
        entry.total_run_count = total_run_count

    def has_new_schedule(self) -> bool:
        """Return whether entries came, went or changed since the last question, without a look at each of them.

        Celery compares all entries with a copy of theirs on each tick, which makes 10,000 of them slow. A schedule in
        memory changes by this class's methods, or by entries that come and go. What else a base does only it can tell.
        """
        schedule = self.schedule
        if not self.keeps_its_schedule:
            before, self.old_schedulers = self.old_schedulers, copy(schedule)
            return not self.schedules_equal(before, schedule)
        seen, self._schedule_seen = self._schedule_seen, (schedule, len(schedule), self._edits)
        # The mapping itself is kept: a file that is written and read again makes another, of the same id perhaps.
        return seen is None or seen[0] is not schedule or seen[1:] != self._schedule_seen[1:]

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
        # Celery before 5.7 reads the hours of a crontab in the time zone of the last run.
        last_run = claim.claimed_at if self._is_in_utc else claim.claimed_at.astimezone(self.app.timezone)
        self.set_last_run(entry, last_run, claim.run_count)
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

    @cached_property
    def _is_in_utc(self) -> bool:
        return bool(self.app.timezone.utcoffset(None) == timedelta(0))

    def _now(self) -> datetime:
        now: datetime = self.app.now()
        return now if now.tzinfo else now.replace(tzinfo=self.app.timezone)
