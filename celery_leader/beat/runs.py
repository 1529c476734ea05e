"""From an entry that is due to the claim of its run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_leader.beat.catch_up import CatchUp, plan
from celery_leader.beat.due_times import Entry, fingerprint, task_id, utc, where_it_lives
from celery_leader.election.limits import EARLIEST, LATEST, TOO_MANY, shown_value
from celery_leader.exceptions import ConfigurationError
from celery_leader.ledger import Claim, Tick

logger = logging.getLogger(__name__)

_NEXT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Run:
    """The run of a due entry.

    Attributes:
        entry: The entry.
        claim: The claim of the run. If it is ``sent``, nothing is sent: it only records runs that are let go.
        missed: How many runs are let go.
        by_due_time: Whether the next run counts from a due time, and may be due already; else from the claim.
    """

    entry: Entry
    claim: Claim
    missed: int
    by_due_time: bool

    @property
    def last_run_at(self) -> datetime:
        """The last run of the entry once this one is claimed."""
        return where_it_lives(self.entry.schedule, self.claim.claimed_at)


def _counted(entry: Entry) -> int:
    """Return how often *entry* ran, as far as a ledger can keep that."""
    return min(entry.total_run_count or 0, TOO_MANY - 1)


class Planner:
    """Names the runs of one election's entries."""

    def __init__(
        self,
        app_name: str,
        election: str,
        catch_up: CatchUp,
        due_time: Callable[[Entry, datetime], datetime | None],
    ) -> None:
        """Prepare.

        Args:
            app_name: The Celery app's; part of the names.
            election: Whose leader sends.
            catch_up: The catch-up of entries whose options say nothing else.
            due_time: Tells since when an entry has been due at a moment.
        """
        self._app_name = app_name
        self._election = election
        self._catch_up = catch_up
        self._due_time = due_time
        self._complained: set[str] = set()

    def first_sight(self, entry: Entry, last_run_at: datetime, void: Claim | None = None) -> Claim:
        """Return the note of when *entry*, which is new, ran last: later leaders count its period from there.

        Args:
            entry: The entry.
            last_run_at: When it ran last.
            void: Its last claim by another schedule: it ran then, even if this process does not know that.
        """
        seen = last_run_at if last_run_at.tzinfo else utc(last_run_at)
        seen = min(max(seen, void.claimed_at if void else EARLIEST), LATEST)
        tick = Tick(self._election, entry.name, seen)
        return Claim(tick, "", _counted(entry), seen, fingerprint(entry.schedule), sent=True)

    def run(self, entry: Entry, now: datetime) -> Run:
        """Return the run of *entry* to claim at *now*."""
        moment = utc(now)
        due = min(self._due_time(entry, now) or moment, moment)
        if entry.last_run_at:  # a schedule with one time only may be made to run again
            due = max(due, utc(entry.last_run_at) + _NEXT)
        made = plan(entry, due, moment, self._wanted(entry))
        let_go = made.due_at is None
        counted_from = made.last_run_at or max(moment, due)
        tick = Tick(self._election, entry.name, made.due_at or counted_from)
        claim = Claim(
            tick,
            "" if let_go else task_id(self._app_name, tick),
            min(_counted(entry) + (not let_go), TOO_MANY - 1),
            counted_from,
            fingerprint(entry.schedule),
            sent=let_go,
        )
        return Run(entry, claim, made.missed, by_due_time=made.last_run_at is not None)

    def _wanted(self, entry: Entry) -> CatchUp:
        if not entry.options:
            return self._catch_up
        try:
            return self._catch_up.for_entry(entry.options)
        except ConfigurationError as error:
            if entry.name not in self._complained:
                self._complained.add(entry.name)
                logger.error("Entry %s: %s It runs as the settings say.", shown_value(entry.name), error)  # noqa: TRY400
            return self._catch_up
