"""Missed runs: those that were due while no leader could send them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from celery import schedules

from celery_leader.beat.due_times import Entry, due_after, is_interval, zone_of
from celery_leader.election.limits import is_duration
from celery_leader.exceptions import ConfigurationError
from celery_leader.settings import CATCH_UP_POLICIES, LeaderSettings

#: Keys of an entry's ``options`` that override the settings of (nearly) the same names. Its ``headers`` may have them,
#: too: django-celery-beat's admin lets people edit nothing else freely.
POLICY_OPTION, WINDOW_OPTION = "leader_catch_up", "leader_catch_up_window"

#: How many missed runs are looked at one by one, and counted.
_MOST = 500
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class CatchUp:
    """How a leader makes up for an entry's missed runs.

    Attributes:
        policy: ``latest``: one run, however many were missed. ``all``: each. ``skip``: none.
        window: How long ago (seconds) a run may have been due that ``all`` still makes up for.
        grace: How late (seconds) a run may be that ``skip`` does not count as missed: as long as a takeover lasts.
    """

    policy: str
    window: float
    grace: float

    @classmethod
    def of(cls, settings: LeaderSettings) -> CatchUp:
        """Return the catch-up of entries whose options say nothing else."""
        takeover = settings.lease_duration + 2.2 * settings.retry_period
        return cls(settings.beat_catch_up, settings.beat_catch_up_window, grace=takeover)

    def for_entry(self, options: Mapping[str, Any]) -> CatchUp:
        """Return the catch-up of an entry with these *options*.

        Raises:
            ConfigurationError: There is no such policy, or the window is no duration.
        """
        headers = options.get("headers") or {}
        if not isinstance(headers, Mapping):
            raise ConfigurationError(f"headers must be a mapping, got {headers!r}.")
        policy = options.get(POLICY_OPTION, headers.get(POLICY_OPTION, self.policy))
        window = options.get(WINDOW_OPTION, headers.get(WINDOW_OPTION, self.window))
        if policy not in CATCH_UP_POLICIES:
            raise ConfigurationError(f"{POLICY_OPTION} must be one of {', '.join(CATCH_UP_POLICIES)}, got {policy!r}.")
        if not is_duration(window):
            raise ConfigurationError(
                f"{WINDOW_OPTION} must be a positive number of seconds, ten years at most, got {window!r}."
            )
        return CatchUp(policy, float(window), self.grace)


@dataclass(frozen=True)
class Plan:
    """What to do about an entry that is due.

    Attributes:
        due_at: Which run to send (UTC); None when all were missed and are let go.
        missed: How many runs before it are let go.
        last_run_at: From when on the next run counts; None means from the moment of the claim.
    """

    due_at: datetime | None
    missed: int = 0
    last_run_at: datetime | None = None


def plan(entry: Entry, due: datetime, now: datetime, wanted: CatchUp) -> Plan:
    """Return what *wanted* makes of *entry*, which has been due since *due* (both UTC)."""
    if wanted.policy == "all":
        return _each(entry.schedule, due, now, wanted.window)
    latest, missed = _latest(entry.schedule, due, now)
    if (
        wanted.policy == "skip"
        and (now - latest).total_seconds() > wanted.grace
        and _recurs(entry.schedule, latest, now)
    ):
        return Plan(None, missed + 1, last_run_at=latest)
    return Plan(latest, missed)


def _recurs(schedule: Any, latest: datetime, now: datetime) -> bool:
    """Return whether there is another run after *latest*: the only run can't be let go for the next one."""
    following = due_after(schedule, latest, now)
    return following is not None and following > latest


def _each(schedule: Any, due: datetime, now: datetime, window: float) -> Plan:
    """Return the first of the missed runs that is not too old; the next look finds the next."""
    oldest = now - timedelta(seconds=_within_deadline(schedule, window))
    if due >= oldest:
        return Plan(due, last_run_at=due)
    latest, before = _latest(schedule, due, oldest)
    following = due_after(schedule, _local(schedule, latest), now)
    if following is None or following > now:
        return Plan(None, before + 1, last_run_at=latest)
    return Plan(following, before + 1, last_run_at=following)


def _within_deadline(schedule: Any, window: float) -> float:
    """Return *window*, or Celery's ``beat_cron_starting_deadline`` for crontabs if that is less."""
    deadline = schedule.app.conf.beat_cron_starting_deadline if isinstance(schedule, schedules.crontab) else None
    return window if deadline is None else min(window, deadline)


def _latest(schedule: Any, due: datetime, now: datetime) -> tuple[datetime, int]:
    """Return the last run that is due by *now*, *due* being one, and how many come before it."""
    if is_interval(schedule):
        before = max(0, (now - due) // schedule.run_every) if schedule.run_every else 0
        return due + before * schedule.run_every, before
    runs = [due, *islice(_following(schedule, due, now), _MOST)]
    latest = runs[-1] if len(runs) <= _MOST else _before(schedule, runs[-1], now)
    return latest, len(runs) - 1


def _before(schedule: Any, due: datetime, now: datetime) -> datetime:
    """Return the last run by *now* of a schedule that has had many since *due*: looked for from *now* on back."""
    back = _MINUTE
    while now - back > due:
        first = due_after(schedule, _local(schedule, now - back), now)
        if first is not None and first <= now:
            return max([first, *islice(_following(schedule, first, now), _MOST)])
        back *= 2
    return due


def _following(schedule: Any, due: datetime, now: datetime) -> Iterator[datetime]:
    """Yield the runs after *due* that are due by *now*."""
    if isinstance(schedule, schedules.crontab) and now - due < _MINUTE:
        return  # the next can't be due yet, and a look is dear
    while (following := due_after(schedule, _local(schedule, due), now)) is not None and due < following <= now:
        due = following
        yield due


def _local(schedule: Any, time: datetime) -> datetime:
    """Return *time* where the schedule lives: a crontab may read its hours off it."""
    return time.astimezone(zone_of(schedule))
