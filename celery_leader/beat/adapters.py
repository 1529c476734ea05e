"""What the well-known schedulers need besides, to send as a leader: their stores are shared, or know too little."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from celery_leader.beat.claims import Claims
from celery_leader.beat.mixin import STANDBY_WAIT, LeaderMixin
from celery_leader.beat.outbox import Outbox
from celery_leader.beat.runs import Run
from celery_leader.beat.ticks import utc
from celery_leader.ledger import Claim

logger = logging.getLogger(__name__)

#: What a database file answers that another process has locked.
_IN_USE = (errno.EAGAIN, errno.EACCES, errno.EBUSY)
#: By how much django-celery-beat moves the last run of an entry with a start time back that never ran.
_LONG_BEFORE = timedelta(days=365 * 30)


class LeaderPersistent(LeaderMixin):
    """For :class:`celery.beat.PersistentScheduler`, whose file only one process may have open.

    A second beat that can't open it takes it for damaged, and deletes it.
    """

    _store: Any

    def sync(self) -> None:
        """Write the file. One that can't be written ends no tick: the ledger has the last runs."""
        try:
            super().sync()
        except OSError:
            logger.exception("The schedule's file could not be written")

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """See :meth:`LeaderMixin.tick`; a beat that slept for minutes would keep the file of others."""
        return min(super().tick(*args, **kwargs), STANDBY_WAIT)

    def step_back(self) -> None:
        """Close the file, so that the next leader on this machine finds it free."""
        store, self._store = self._store, None
        if store is not None:
            self._has_schedule = False
            store.close()

    def close(self) -> None:
        """See :meth:`LeaderMixin.close`; the file is closed first, as it is on standing back."""
        super().close()
        self._store = None

    def _destroy_open_corrupted_schedule(self, exc: Exception) -> Any:
        """Refuse to delete a file that is in use: who led before has not closed it yet."""
        if getattr(exc, "errno", None) in _IN_USE:
            raise exc
        return super()._destroy_open_corrupted_schedule(exc)


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
        self.schedule_changed()  # notes the last edit's time, to see the next; gives up a connection that broke
        super().begin_term()
        _ = self.schedule  # once more, for what installing entries changed
        self._heap_invalidated, self._heap = False, None  # the base made it an empty one

    def update_from_dict(self, mapping: Mapping[str, Any]) -> None:
        """Install entries; those that are in the database already are not written, which would look like an edit.

        An entry that never ran counts from its last edit: written at each start, it would never run where beats start
        more often than it is due.
        """
        super().update_from_dict({name: made for name, made in mapping.items() if not self._is_installed(name, made)})

    def _is_installed(self, name: str, made: Mapping[str, Any]) -> bool:
        try:
            model = self.Model.objects.filter(name=name).first()
            fields = self.Entry._unpack_fields(**made).items() if model else ()  # noqa: SLF001  # what it would write
        except Exception:  # noqa: BLE001  # the base meets it again, and tells
            return False
        return model is not None and all(getattr(model, field) == value for field, value in fields)

    def step_back(self) -> None:
        """Write nothing more: what this process knows is older than the next leader's."""
        self._dirty.clear()

    @property
    def schedule(self) -> Any:
        """The entries by name. Each look asks the database whether somebody edited them."""
        if self._still is not None:
            return self._still
        try:
            return super().schedule
        except Exception:
            self._initial_read = True  # the base takes what it failed to read for read
            raise

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

    def still_exist(self, names: Collection[str]) -> Collection[str]:
        """See :meth:`LeaderMixin.still_exist`; a crontab that is due once a month is in the schedule for five hours."""
        return set(self.Model.objects.filter(name__in=names, enabled=True).values_list("name", flat=True))

    def set_last_run(self, entry: Any, last_run_at: datetime, total_run_count: int) -> None:
        """See :meth:`LeaderMixin.set_last_run`; the entry's row decides on one-off tasks, and is what is saved."""
        super().set_last_run(entry, last_run_at, total_run_count)
        model = entry.model
        has_zone = model.last_run_at is None or model.last_run_at.tzinfo is not None  # not with USE_TZ = False
        model.last_run_at = last_run_at if has_zone else utc(last_run_at).replace(tzinfo=None)
        model.total_run_count = total_run_count

    def due_time(self, entry: Any, now: datetime) -> datetime | None:
        """See :meth:`LeaderMixin.due_time`; an entry with a start time was due at none before it."""
        model = entry.model
        if model.start_time and _never_ran(entry):
            first = utc(model.due_start_time(self.app.timezone))
            return first if first <= now else utc(model.start_time)
        return super().due_time(entry, now)

    def recall(self, claims: Claims, entry: Any) -> bool:
        """See :meth:`LeaderMixin.recall`; an entry that was disabled, or a one-off that was enabled, starts afresh."""
        claim, model = claims.get(entry.name), entry.model
        if claim and claim.claimed_at != utc(entry.last_run_at):
            was_edited = model.date_changed and utc(model.date_changed) > claim.claimed_at
            if was_edited and (_never_ran(entry) or (model.one_off and not model.total_run_count)):
                return False
        stored = (utc(entry.last_run_at), model.total_run_count)
        if not super().recall(claims, entry):
            return False
        if claim and claim.task_id and stored != (claim.claimed_at, claim.run_count):
            self._dirty.add(entry.name)  # who claimed it died before it wrote this
        return True

    def _tick_together(self, outbox: Outbox) -> float:
        delay = super()._tick_together(outbox)
        if self._dirty:
            self.sync()
        return delay

    def sync(self) -> None:
        """Write last runs, all in one statement, and without the look of an edit.

        Also when the process is about to end and may send no more: the lease is not given back before the tick is over.
        """
        if self._candidate is None or self._term is None or self._candidate.elector.term != self._term:
            return
        names, self._dirty = self._dirty, set()
        entries = self._schedule or {}
        models = [entries[name].model for name in names if name in entries]
        enabled = self.Model.objects.filter(enabled=True)  # disabling forgets the last run, a moment ago perhaps
        try:
            enabled.bulk_update(models, ["last_run_at", "total_run_count"], batch_size=100)
        except Exception:  # the ledger knows them, and the next tick writes them again
            logger.exception("The last runs of %d entries could not be written for the admin", len(models))
            self._dirty |= names


def _never_ran(entry: Any) -> bool:
    """Return whether *entry* has the last run that the base gives to what has none."""
    if not entry.model.date_changed:
        return False
    changed = utc(entry.model.date_changed)
    return utc(entry.last_run_at) in (changed, changed - _LONG_BEFORE)


class LeaderRedBeat(LeaderMixin):
    """For RedBeat, whose own lock is not wanted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See :class:`LeaderMixin`."""
        super().__init__(*args, **kwargs)
        self.lock_key = None
        self._is_behind = False

    def begin_term(self) -> None:
        """See :meth:`LeaderMixin.begin_term`; entries come and go in Redis, which nobody else would notice."""
        super().begin_term()
        if self._outbox:
            self._prune(self._outbox.claims, ())

    def still_exist(self, names: Collection[str]) -> Collection[str]:
        """See :meth:`LeaderMixin.still_exist`."""
        return {name for name in names if self.find_entry(name)}

    def _tick_as_leader(self, *args: Any, **kwargs: Any) -> float:
        self._is_behind = False
        delay = super()._tick_as_leader(*args, **kwargs)
        return 0 if self._is_behind else delay

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

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """See :meth:`LeaderMixin.apply_async`; what the ledger knows to have run is only noted in RedBeat."""
        claim = self._outbox.claims.get(entry.name) if self._outbox else None
        if claim and (entry.last_run_at is None or claim.claimed_at > utc(entry.last_run_at)):
            entry = self._note(entry, claim)
            if not entry.is_due()[0]:
                return None
        return super().apply_async(entry, producer=producer, advance=advance, **kwargs)

    def _advance(self, run: Run, now: datetime) -> Any:
        if run.missed:
            self._count_missed(run)
        advanced = self._note(run.entry, run.claim)
        self._is_behind |= run.by_due_time and advanced.is_due()[0]
        return advanced

    def _note(self, entry: Any, claim: Claim) -> Any:
        """Write the run of *claim* to RedBeat's store; return the entry as it is from then on."""
        self.set_last_run(entry, entry.last_run_at, claim.run_count)
        last_run = claim.claimed_at.astimezone(timezone.utc)
        return entry.next(last_run_at=last_run, only_update_last_run_at=True)


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
