"""Adapters for schedulers with their schedule in a database: people edit it, and read the last runs there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from celery_leader.beat.claims import Claims
from celery_leader.beat.due_times import utc
from celery_leader.beat.entries import definer, is_untouched
from celery_leader.beat.gate import LeaderMixin
from celery_leader.beat.reports import Failures

#: By how much the last run of an entry with a start time is moved back that never ran.
_LONG_BEFORE = timedelta(days=365 * 30)


class LeaderStored(LeaderMixin):
    """For sqlalchemy-celery-beat's ``DatabaseScheduler``, and others made like django-celery-beat's.

    Such a scheduler keeps last runs in memory for minutes, and reads the schedule again in the midst of things.
    """

    read_again = 5.0  # as often as django-celery-beat looks: each failure of a database is a traceback of its own
    _dirty: set[str]
    _still: Any = None
    _has_nothing_to_write = False

    def begin_term(self) -> None:
        """Read all entries again: others have led meanwhile, and edits were made."""
        self._dirty.clear()
        self._initial_read = True
        self.schedule_changed()  # notes the last edit's time, to see the next; gives up a connection that broke
        _ = self.schedule
        self._has_nothing_to_write = True
        try:
            super().begin_term()
            _ = self.schedule  # once more, for what installing entries changed
        finally:
            self._has_nothing_to_write = False
        self._heap_invalidated, self.heap = False, None  # the base made it an empty one

    def sync(self) -> None:
        """See :meth:`LeaderMixin.sync`."""
        if not self._has_nothing_to_write:
            super().sync()

    def step_back(self) -> None:
        """Write nothing more: the next leader knows later runs.

        A stopping worker stands by before its lease is released: the last runs are written until then.
        """
        if not self.trusts:
            self._dirty.clear()

    @property
    def schedule(self) -> Any:
        """The entries by name. Each look asks the database whether they were edited."""
        if self._still is not None:
            return self._still
        if self._batch and self._batch.is_under_way:
            return self._schedule
        try:
            return super().schedule
        except Exception:
            self._initial_read = True  # the base believes that it has read it
            raise

    @contextlib.contextmanager
    def _standing_still(self) -> Iterator[None]:
        """Keep the schedule the same until the block ends: read again, it would lack the recalled last runs."""
        self._still = self.schedule
        try:
            yield
        finally:
            self._still = None

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Return whether nothing was edited, by the change marker: one row, however many entries there are."""
        if self._batch and self._batch.is_under_way:
            return True
        changed, self._heap_invalidated = self._heap_invalidated, False
        return not changed

    def populate_heap(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`LeaderMixin.populate_heap`."""
        with self._standing_still():
            super().populate_heap(*args, **kwargs)

    def find_entry(self, name: str) -> Any:
        """Return the entry *name* as it was read last."""
        return (self._schedule or {}).get(name)

    def set_last_run(self, entry: Any, last_run_at: datetime, total_run_count: int) -> None:
        """See :meth:`LeaderMixin.set_last_run`; the entry's row decides on one-off tasks, and is saved."""
        super().set_last_run(entry, last_run_at, total_run_count)
        model = entry.model
        has_zone = model.last_run_at is None or model.last_run_at.tzinfo is not None  # not with USE_TZ = False
        model.last_run_at = last_run_at if has_zone else utc(last_run_at).replace(tzinfo=None)
        model.total_run_count = total_run_count

    def due_time(self, entry: Any, now: datetime) -> datetime | None:
        """See :meth:`LeaderMixin.due_time`; an entry with a start time was due at none before it."""
        due, start = super().due_time(entry, now), entry.model.start_time
        return max(due, utc(start)) if due and start else due


class LeaderDatabase(LeaderStored):
    """For django-celery-beat's ``DatabaseScheduler``.

    It takes last runs that it never wrote for the time of the last edit. The ledger's last runs go before the
    database's, unless an entry was started afresh in the admin since.
    """

    def update_from_dict(self, mapping: Mapping[str, Any]) -> None:
        """Install entries; those that are in the database already are not written, which would look like an edit.

        An entry that never ran counts from its last edit: written at each start, it would never run where beats start
        more often than it is due.
        """
        super().update_from_dict({name: made for name, made in mapping.items() if not self._is_installed(name, made)})

    def _is_installed(self, name: str, made: Mapping[str, Any]) -> bool:
        try:
            model = self.Model.objects.filter(name=name).first()
            fields = self.Entry._unpack_fields(**made).items() if model else ()  # noqa: SLF001  # the fields that it would write
        except Exception:  # noqa: BLE001  # the base meets it again, and tells
            return False
        return model is not None and all(getattr(model, field) == value for field, value in fields)

    def find_entry(self, name: str) -> Any:
        """Return the entry *name*. The schedule leaves out crontabs that are not due for hours."""
        if entry := super().find_entry(name):
            return entry
        model = self.Model.objects.filter(name=name, enabled=True).first()
        return self.Entry(model, app=self.app) if model else None

    def still_exist(self, names: Collection[str]) -> Collection[str]:
        """See :meth:`LeaderMixin.still_exist`; a crontab that is due once a month is in the schedule for five hours."""
        return set(self.Model.objects.filter(name__in=names, enabled=True).values_list("name", flat=True))

    def due_time(self, entry: Any, now: datetime) -> datetime | None:
        """See :meth:`LeaderMixin.due_time`; an entry with a start time was due at none before it."""
        model = entry.model
        if model.start_time and _never_ran(entry):
            first = utc(model.due_start_time(self.app.timezone))
            return first if first <= now else utc(model.start_time)
        return LeaderMixin.due_time(self, entry, now)

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
            self._dirty.add(entry.name)  # its claimer died before it wrote this
        return True

    def round_ended(self, delay: float) -> float:
        """See :meth:`LeaderMixin.round_ended`; the admin sees last runs at once."""
        if self._dirty:
            self._dirty |= self._write_last_runs()
        return super().round_ended(delay)

    def sync(self) -> None:
        """See :meth:`LeaderMixin.sync`; what could be written together the base does not write once more."""
        failed = self._write_last_runs() if self.trusts else set()
        try:
            super().sync()
        finally:
            self._dirty |= failed

    def _write_last_runs(self) -> set[str]:
        """Write last runs, all in one statement, and without the look of an edit.

        Not if others want to see each entry saved: then the base does that, as seldom as ever.

        Returns:
            The names of the entries that could not be written.
        """
        if self._is_saved_by_others():
            return set()
        names, self._dirty = self._dirty, set()
        entries = self._schedule or {}
        models = [entries[name].model for name in names if name in entries]
        enabled = self.Model.objects.filter(enabled=True)  # disabling forgets the last run, a moment ago perhaps
        try:
            enabled.bulk_update(models, ["last_run_at", "total_run_count"], batch_size=100)
        except Exception as error:  # noqa: BLE001  # the ledger knows them, and the next tick writes them again
            self._unwritten.failed(error, self.monotonic())
            return names
        return set()

    @cached_property
    def _unwritten(self) -> Failures:
        return Failures("Last runs could not be written for the admin")

    def _is_saved_by_others(self) -> bool:
        """Return whether code that is not django-celery-beat's has part in saving an entry."""
        saved = ((self.Entry, "save"), (self.Model, "save"))
        own = all(
            definer(kind, name).__module__.startswith("django_celery_beat.") and is_untouched(kind, name)
            for kind, name in saved
        )
        return not own or sys.modules["django.db.models.signals"].post_save.has_listeners(self.Model)


def _never_ran(entry: Any) -> bool:
    """Return whether *entry* has the last run that the base gives to entries without one."""
    if not entry.model.date_changed:
        return False
    changed = utc(entry.model.date_changed)
    return utc(entry.last_run_at) in (changed, changed - _LONG_BEFORE)
