"""States in which work is sent twice or never, though each process by itself is well: logged once a minute."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from celery_leader.backends import Backend
from celery_leader.election import Lock
from celery_leader.election.alarm import Alarm, in_words
from celery_leader.leadership.campaign import Campaign
from celery_leader.leadership.watch import LeaderFromOutside
from celery_leader.settings import LeaderSettings, leader_values
from celery_leader.tasks.leader_only import mark_of

logger = logging.getLogger(__name__)

#: How many names a log line lists.
_LISTED = 5
#: How long (seconds) an election may have no leader while processes start one after the other.
_ROLLOUT = 30.0
#: How long (seconds) the other workers may take to answer.
_ANSWER_TIME = 2.0

Check = Callable[[float], None]


def checks_of(
    app: Any, settings: LeaderSettings, backend: Backend, campaign: Campaign | None, *, has_other_beat: bool
) -> Iterator[Check]:
    """Yield the checks of a worker besides its own elections, whose electors log themselves that nobody leads.

    Args:
        app: The Celery app.
        settings: Its settings.
        backend: Where its elections are kept.
        campaign: The worker's; None when it takes part in no election.
        has_other_beat: Whether the worker has a beat of Celery's (``-B``).
    """
    own = campaign.candidates if campaign else ()
    for election, tasks in guarded_tasks(app).items():
        if election not in own:
            yield UnledElection(
                backend.lock(election),
                election,
                f"{len(tasks)} guarded tasks ({listed(tasks)}) wait until somebody does. Start a worker that takes "
                f"part: with {election!r} in leader_elections, and without --without-leader.",
            )
    if not has_other_beat and (unsent := unsent_schedule(app, settings, own)):
        cure = (
            "Start a worker without --without-leader."
            if settings.beat
            else "Set leader_beat = True, or start `celery beat -S leader`. If something else sends them, set "
            "leader_beat = False."
        )
        yield UnledElection(
            backend.lock(settings.beat_election),
            settings.beat_election,
            f"{unsent} are NOT sent. {cure}",
        )
    if campaign and settings.backend.startswith("memory:"):
        yield LeadersElsewhere(app, campaign)


def guarded_tasks(app: Any) -> dict[str, list[str]]:
    """Return the names of the tasks of *app* that are reserved for a leader, by election."""
    found = defaultdict(list)
    for name, task in sorted(app.tasks.items()):
        if mark := mark_of(task):
            found[mark.election].append(name)
    return dict(found)


def unsent_schedule(app: Any, settings: LeaderSettings, elections: Collection[str]) -> str:
    """Return in words the schedule that no worker with these *settings* sends; empty when there is none."""
    if settings.leaves_beat_to_others or settings.beat_election in elections:
        return ""
    if entries := sorted(app.conf.beat_schedule):
        return f"{len(entries)} entries of beat_schedule ({listed(entries)})"
    if "beat_scheduler" in leader_values(app.conf):  # it is meant for a beat, and may keep its entries elsewhere
        return f"The entries of leader_beat_scheduler ({settings.beat_scheduler})"
    return ""


def listed(names: Iterable[str]) -> str:
    """Return the first few of *names* as text."""
    names = list(names)
    return ", ".join([*names[:_LISTED], *(["…"] if len(names) > _LISTED else [])])


class UnledElection:
    """The check that somebody leads an election in which this worker takes no part."""

    def __init__(self, lock: Lock, election: str, consequence: str) -> None:
        """Look at the record behind *lock*; *consequence* names the consequence of no leader, and the cure."""
        self._leader = LeaderFromOutside(lock)
        self._election = election
        self._consequence = consequence
        self._alarm = Alarm(after=_ROLLOUT)

    def __call__(self, now: float) -> None:
        """Look, and log when nobody leads: a warning at first, since a candidate may be about to start."""
        leader = self._leader.look(now)
        if leader is None:
            return
        if leader:
            self._alarm.over(now)
            return
        is_new = not self._alarm.is_on
        if (lasted := self._alarm.due(now)) is not None:
            logger.error("Election %r: nobody has led it for %s: %s",
                         self._election, in_words(lasted), self._consequence)  # fmt: skip
        elif is_new:
            logger.warning("Election %r: nobody leads it now: %s", self._election, self._consequence)


class LeadersElsewhere:
    """The check that no other process leads as well: a store in this process's memory can't prevent that."""

    def __init__(self, app: Any, campaign: Campaign) -> None:
        """Ask the other workers of *app* by remote control; a broker without that is not asked."""
        self._app = app
        self._campaign = campaign
        self._alarm = Alarm()

    def __call__(self, now: float) -> None:
        """Ask, and log an error when another worker leads an election of this one."""
        for node, status in self._others():
            for election, theirs in (status.get("elections") or {}).items():
                mine = self._campaign.candidates.get(election)
                both_lead = mine and mine.elector.is_leader() and theirs.get("leading")
                if both_lead and theirs.get("identity") != self._campaign.identity and self._alarm.due(now) is not None:
                    logger.error(
                        "Election %r: %s leads it, and so does this worker. Each keeps the election in its own memory "
                        "(leader_backend is memory://): every tick is sent twice. Set leader_backend to a store that "
                        "all workers reach: redis://… or django-db://<alias>.", election, node,
                    )  # fmt: skip

    def _others(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            replies = self._app.control.broadcast("leader_status", reply=True, timeout=_ANSWER_TIME) or []
        except Exception as error:  # noqa: BLE001  # a broker without remote control
            logger.debug("The other workers can't be asked whether they lead: %s", error)
            return
        for reply in replies:
            yield from reply.items()
