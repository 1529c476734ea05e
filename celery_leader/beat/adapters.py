"""Adapters for well-known schedulers: their stores are shared by several beats, or keep too little."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import timezone
from typing import Any

from celery_leader.beat.claims import Claims
from celery_leader.beat.due_times import utc
from celery_leader.beat.gate import LeaderMixin
from celery_leader.beat.runs import Run
from celery_leader.beat.stored import LeaderDatabase, LeaderStored
from celery_leader.ledger import Claim

logger, celerys_logger = logging.getLogger(__name__), logging.getLogger("celery.beat")


class LeaderRedBeat(LeaderMixin):
    """For RedBeat, whose own lock is not wanted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See :class:`LeaderMixin`."""
        super().__init__(*args, **kwargs)
        self.lock_key = None
        self._is_behind = False

    def begin_term(self) -> None:
        """See :meth:`LeaderMixin.begin_term`; entries come and go in Redis, and nothing else notices that."""
        super().begin_term()
        if self._leading:
            self._entries.prune(self._leading.claims, ())

    def still_exist(self, names: Collection[str]) -> Collection[str]:
        """See :meth:`LeaderMixin.still_exist`."""
        return {name for name in names if self.find_entry(name)}

    def round_ended(self, delay: float) -> float:
        """See :meth:`LeaderMixin.round_ended`; an entry that is behind is due again at once."""
        is_behind, self._is_behind = self._is_behind, False
        return 0 if is_behind else delay

    def find_entry(self, name: str) -> Any:
        """Return the entry *name* from Redis; the schedule holds only what is due."""
        try:
            entry = self.Entry.from_key(self.Entry.generate_key(self.app, name), app=self.app)
        except KeyError:
            return None
        return entry if entry.enabled else None

    def recall(self, claims: Claims, entry: Any) -> bool:
        """See :meth:`LeaderMixin.recall`. RedBeat notes runs before they are sent, or not at all."""
        if entry.last_run_at is None and claims.get(entry.name) is None:
            return True  # never ran: due now
        return super().recall(claims, entry)

    def apply_as_base(self, entry: Any, producer: Any) -> None:
        """See :meth:`LeaderMixin.apply_as_base`; RedBeat logs a message and publishes it."""
        celerys_logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        self.apply_async(entry, advance=False)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """See :meth:`LeaderMixin.apply_async`; a run that the ledger knows is only noted in RedBeat.

        RedBeat hands over the producer that it began with. Its connection may be gone, so it is not used.
        """
        if self._publisher.sending:
            return super().apply_async(entry, advance=advance, **kwargs)
        claim = self._leading.claims.get(entry.name) if self._leading else None
        if claim and (entry.last_run_at is None or claim.claimed_at > utc(entry.last_run_at)):
            entry = self._note(entry, claim)
            if not entry.is_due()[0]:
                return None
        return super().apply_async(entry, advance=advance, **kwargs)

    def advance(self, run: Run) -> None:
        """See :meth:`LeaderMixin.advance`; RedBeat's store notes it."""
        advanced = self._note(run.entry, run.claim)
        self._is_behind |= run.by_due_time and advanced.is_due()[0]

    def _note(self, entry: Any, claim: Claim) -> Any:
        """Write the run of *claim* to RedBeat's store; return the entry as it is from then on."""
        self.set_last_run(entry, entry.last_run_at, claim.run_count)
        last_run = claim.claimed_at.astimezone(timezone.utc)
        return entry.next(last_run_at=last_run, only_update_last_run_at=True)


#: The adapter of each base that needs one, by the base's name, so that no base is imported for it.
ADAPTERS: dict[str, type[LeaderMixin]] = {
    "django_celery_beat.schedulers.DatabaseScheduler": LeaderDatabase,
    "sqlalchemy_celery_beat.schedulers.DatabaseScheduler": LeaderStored,
    "redbeat.schedulers.RedBeatScheduler": LeaderRedBeat,
}


def adapter_for(base: type[Any]) -> type[LeaderMixin]:
    """Return the mixin that makes a leader's scheduler of *base*."""
    names = [f"{parent.__module__}.{parent.__qualname__}" for parent in base.__mro__]
    return next((ADAPTERS[name] for name in names if name in ADAPTERS), LeaderMixin)
