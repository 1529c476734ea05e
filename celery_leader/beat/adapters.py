"""What the well-known schedulers need besides, to send as a leader: their stores are shared, or know too little."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from celery_leader.beat.claims import Claims
from celery_leader.beat.mixin import LeaderMixin
from celery_leader.beat.outbox import Outbox
from celery_leader.beat.ticks import utc

logger = logging.getLogger(__name__)


class LeaderPersistent(LeaderMixin):
    """For :class:`celery.beat.PersistentScheduler`, whose file only one process may have open.

    A second beat that can't open it takes it for damaged, and deletes it.
    """

    _store: Any

    def step_back(self) -> None:
        """Close the file, so that the next leader on this machine finds it free."""
        store, self._store = self._store, None
        if store is not None:
            store.close()
            self._has_schedule = False


class LeaderDatabase(LeaderMixin):
    """For django-celery-beat's ``DatabaseScheduler``.

    It keeps last runs in memory for minutes, takes those that it never wrote for the time of the last edit, and reads
    the schedule again in the midst of things. The ledger's last runs go before the database's, unless somebody has
    started an entry afresh in the admin since.
    """

    _dirty: set[str]
    _still: Any = None

    def begin_term(self) -> None:
        """Read all entries again: others have led meanwhile, and edits were made."""
        self._dirty.clear()
        self._initial_read = True
        super().begin_term()
        self._heap_invalidated = False

    def step_back(self) -> None:
        """Write nothing more: what this process knows is older than the next leader's."""
        self._dirty.clear()

    @property
    def schedule(self) -> Any:
        """The entries by name. Each look asks the database whether somebody edited them."""
        return super().schedule if self._still is None else self._still

    @contextlib.contextmanager
    def _standing_still(self) -> Iterator[None]:
        """Let the schedule be the same until the block ends: read again, it would lack what was recalled."""
        self._still = self.schedule
        try:
            yield
        finally:
            self._still = None

    def has_new_schedule(self) -> bool:
        """Return whether the schedule was edited, by its change marker: one row, however many entries there are."""
        _ = self.schedule  # looks
        changed, self._heap_invalidated = self._heap_invalidated, False
        return bool(changed)

    def populate_heap(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`LeaderMixin.populate_heap`."""
        with self._standing_still():
            super().populate_heap(*args, **kwargs)

    def find_entry(self, name: str) -> Any:
        """Return the entry *name*. The schedule leaves out crontabs that are not due for hours."""
        if entry := (self._schedule or {}).get(name):
            return entry
        model = self.Model.objects.filter(name=name, enabled=True).first()
        return self.Entry(model, app=self.app) if model else None

    def set_last_run(self, entry: Any, last_run_at: datetime, total_run_count: int) -> None:
        """See :meth:`LeaderMixin.set_last_run`; the entry's row decides on one-off tasks, and is what is saved."""
        super().set_last_run(entry, last_run_at, total_run_count)
        entry.model.last_run_at, entry.model.total_run_count = last_run_at, total_run_count

    def recall(self, claims: Claims, entry: Any) -> bool:
        """See :meth:`LeaderMixin.recall`; an entry that was disabled, or a one-off that was enabled, starts afresh."""
        claim, model = claims.get(entry.name), entry.model
        if claim and model.date_changed and utc(model.date_changed) > claim.claimed_at:
            never_ran = entry.last_run_at == model.date_changed  # what the base makes of no last run
            if never_ran or (model.one_off and not model.total_run_count):
                return False
        return super().recall(claims, entry)

    def _tick_together(self, outbox: Outbox) -> float:
        delay = super()._tick_together(outbox)
        if self._dirty:
            self.sync()
        return delay

    def sync(self) -> None:
        """Write last runs, all in one statement, and without the look of an edit."""
        if not self._may_send():
            return
        names, self._dirty = self._dirty, set()
        entries = self._schedule or {}
        models = [entries[name].model for name in names if name in entries]
        try:
            self.Model.objects.bulk_update(models, ["last_run_at", "total_run_count"], batch_size=100)
        except Exception:  # the ledger knows them, and the next tick writes them again
            logger.exception("The last runs of %d entries could not be written for the admin", len(models))
            self._dirty |= names


class LeaderRedBeat(LeaderMixin):
    """For RedBeat, whose own lock is not wanted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See :class:`LeaderMixin`."""
        super().__init__(*args, **kwargs)
        self.lock_key = None

    def find_entry(self, name: str) -> Any:
        """Return the entry *name* from Redis; the schedule holds only what is due."""
        try:
            return self.Entry.from_key(self.Entry.generate_key(self.app, name), app=self.app)
        except KeyError:
            return None

    def recall(self, claims: Claims, entry: Any) -> bool:
        """See :meth:`LeaderMixin.recall`. RedBeat notes runs before they are sent, or not at all."""
        if entry.last_run_at is None and claims.get(entry.name) is None:
            return True  # never ran: due now
        return super().recall(claims, entry)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """See :meth:`LeaderMixin.apply_async`; what the ledger knows to have run is only noted in RedBeat."""
        claim = self._outbox.claims.get(entry.name) if self._outbox else None
        if claim and entry.last_run_at and claim.claimed_at > utc(entry.last_run_at):
            entry.reschedule(claim.claimed_at.astimezone(self.app.timezone))
            if not entry.is_due()[0]:
                return None
        return super().apply_async(entry, producer=producer, advance=advance, **kwargs)


#: The adapter of each base that needs one, by the base's name: none of them is imported for it.
ADAPTERS: dict[str, type[LeaderMixin]] = {
    "celery.beat.PersistentScheduler": LeaderPersistent,
    "django_celery_beat.schedulers.DatabaseScheduler": LeaderDatabase,
    "redbeat.schedulers.RedBeatScheduler": LeaderRedBeat,
}


def adapter_for(base: type[Any]) -> type[LeaderMixin]:
    """Return what makes a leader's scheduler of *base*."""
    names = [f"{parent.__module__}.{parent.__qualname__}" for parent in base.__mro__]
    return next((ADAPTERS[name] for name in names if name in ADAPTERS), LeaderMixin)
