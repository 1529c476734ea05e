"""A beat that follows no leader beside those that do: each tick is sent twice.

One that starts with our package beside ``leader_beat`` is refused. One that is left running with older code is noticed
by what it sends.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from celery.beat import BeatLazyFunc
from celery.schedules import maybe_schedule
from celery.utils.functional import LRUCache
from celery.utils.saferepr import saferepr

from celery_leader.beat.due_times import is_interval
from celery_leader.beat.gate import LeaderMixin
from celery_leader.election import Lock
from celery_leader.election.alarm import Alarm
from celery_leader.exceptions import ConfigurationError
from celery_leader.leadership.campaign import backend_of
from celery_leader.leadership.watch import LeaderFromOutside, Watch
from celery_leader.ledger import DUE_HEADER
from celery_leader.settings import LeaderSettings, leader_values

logger = logging.getLogger(__name__)

#: So many messages of one entry, one after the other from one process and each in time, are no coincidence.
ENOUGH = 4
#: How late a message of a crontab may reach a worker.
_LATE = timedelta(seconds=5)
#: How far one of an interval may be from its time by the one before: this part of the period, so many seconds at most.
_PART, _MOST = 0.1, 2.0
#: So many processes and entries are watched at the most.
_WATCHED = 1000
#: django-celery-beat's header: the entry's name.
_DATABASE_ENTRY = "periodic_task_name"


def refuse_second_sender(sender: Any, **_: Any) -> None:
    """Keep a plain ``celery beat`` from sending the leader's schedule: a receiver of Celery's ``beat_init``.

    Without ``leader_beat`` other beats may follow a leader of their own election; one that leads now or later is looked
    for in the store, and said once a minute.

    Raises:
        SystemExit: ``leader_beat`` is set, and *sender*, a :class:`celery.beat.Service`, follows no leader.
    """
    scheduler = getattr(sender, "scheduler", None)
    if scheduler is None or isinstance(scheduler, LeaderMixin):
        return
    if leader_values(sender.app.conf).get("beat"):
        sys.exit(
            "leader_beat is set: every worker has a beat, and the leader's sends. This beat follows no leader, so "
            "every periodic task would be sent twice. Start no `celery beat`; "
            "or set leader_beat = False and start it with -S leader."
        )
    with suppress(ConfigurationError):  # no election was ever set up
        settings = LeaderSettings.from_app(sender.app)
        Watch([_LeadingBeat(backend_of(settings, sender.app.main).lock(settings.beat_election))]).start()


class _LeadingBeat:
    """The check of a plain beat: whether a leader's beat sends as well."""

    def __init__(self, lock: Lock) -> None:
        self._leader = LeaderFromOutside(lock)
        self._alarm = Alarm()

    def __call__(self, now: float) -> None:
        if (leader := self._leader.look(now)) and self._alarm.due(now) is not None:
            logger.error("This beat follows no leader, and %s leads beats of the same app: every periodic task is sent "
                         "twice. Stop this one, or start it with -S leader.", leader)  # fmt: skip


class SecondSenders:
    """Looks at each message that a worker receives: whether somebody else sends the leader's schedule, too.

    A message of a periodic task that no leader's beat sent carries no due time. That proves nothing yet: the project's
    own code may call the task with the same arguments. It is taken for a second beat's when the leader's beat sends the
    entry as well, and :data:`ENOUGH` messages in a row from one process keep the entry's schedule. Messages that wait
    long in a queue keep no schedule and are not recognised, nor are entries that only another scheduler's store knows.
    """

    def __init__(self, schedule: Callable[[], Mapping[str, Any]], now: Callable[[], float] = time.monotonic) -> None:
        """Watch.

        Args:
            schedule: Returns the app's ``beat_schedule``; called once, with the first message.
            now: A monotonic clock, in seconds.
        """
        self._schedule = schedule
        self._now = now
        self._entries: dict[tuple[str, str, str], _Entry] | None = None
        self._sent_by_leader: LRUCache = LRUCache(_WATCHED)
        self._series: LRUCache = LRUCache(_WATCHED)  # by entry and sending process
        self._alarm = Alarm()

    def received(self, sender: Any = None, request: Any = None, **_: Any) -> None:
        """Look at one message: a receiver of Celery's ``task_received``, called in the main loop."""
        headers = request.request_dict
        entry = self._entry_of(request, headers)
        if entry is None:
            return
        if DUE_HEADER in headers:
            self._sent_by_leader[entry.name] = self._sent_by_leader.get(entry.name, 0) + 1
            return
        origin, now = str(headers.get("origin") or "An unknown process"), self._now()
        series = self._series.setdefault((entry.name, origin), _Series())
        series.arrived(entry.schedule, now, self._sent_by_leader.get(entry.name, 0))
        if series.length >= ENOUGH and entry.name in self._sent_by_leader and self._alarm.due(now) is not None:
            logger.error(
                "%s sends the periodic task %r, and so does the leader's beat: %d messages in a row came at its times "
                "and without a leader's mark. It looks like a plain `celery beat`, or a worker with -B: each tick is "
                "sent twice. Stop it, unless it is code of your own that calls the task at that pace.",
                origin, entry.name, series.length,
            )  # fmt: skip

    def _entry_of(self, request: Any, headers: Mapping[str, Any]) -> _Entry | None:
        if name := headers.get(_DATABASE_ENTRY):
            return _Entry(str(name), None)
        if self._entries is None:
            self._entries = _by_message(self._schedule())
        return self._entries.get((headers["task"], request.argsrepr, request.kwargsrepr))


class _Entry(NamedTuple):
    name: str
    schedule: Any  # None when it is not known here


@dataclass
class _Series:
    """Messages of one entry from one process, one after the other, each at a time of the entry's schedule.

    Where the schedule is not known, one that comes as often as the leader's: one or two of those between two of these.
    Whoever runs a task by hand, in django-celery-beat's admin say, keeps no such pace.
    """

    length: int = 0
    last: float = 0.0
    leaders: int = 0

    def arrived(self, schedule: Any, now: float, leaders: int) -> None:
        """Note one more at *now*, when the leader's beat has sent *leaders* messages of the entry."""
        between = leaders - self.leaders
        keeps_time = 1 <= between <= 2 if schedule is None else _is_in_time(schedule, now - self.last)
        self.length = self.length + 1 if keeps_time or not self.length else 1
        self.last, self.leaders = now, leaders


def _is_in_time(schedule: Any, gap: float) -> bool:
    """Return whether a message that arrives *gap* seconds after the one before keeps *schedule*."""
    if not is_interval(schedule):
        with suppress(Exception):  # the beat logs what is wrong with a schedule
            return bool(schedule.is_due(schedule.now() - _LATE)[0])
        return False
    period = schedule.run_every.total_seconds()
    periods = round(gap / period) if period else 0
    return periods > 0 and abs(gap - periods * period) <= min(_PART * period, _MOST)


def _by_message(schedule: Mapping[str, Any]) -> dict[tuple[str, str, str], _Entry]:
    """Return the entries of *schedule* by what the headers of their messages show."""
    found = {}
    for name, fields in schedule.items():
        args, kwargs = list(fields.get("args") or ()), dict(fields.get("kwargs") or {})
        if any(isinstance(value, BeatLazyFunc) for value in [*args, *kwargs.values()]):
            continue
        # Celery's beat sends arguments as a list, calls of delay() as a tuple.
        message = fields.get("task"), saferepr(args or ()), saferepr(kwargs)
        found[message] = _Entry(name, maybe_schedule(fields.get("schedule")))
    return found
