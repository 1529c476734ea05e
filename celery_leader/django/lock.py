"""The record of an election as a row."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from django.db import IntegrityError, transaction

from celery_leader.django.fields import DatabaseNow
from celery_leader.django.models import Election, Fence
from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.exceptions import RecordConflict, RecordDamaged, RecordNotFound

if TYPE_CHECKING:
    from celery_leader.django.connection import OwnConnection

_FIELDS = (
    "holder_identity",
    "lease_duration",
    "acquire_time",
    "renew_time",
    "leader_transitions",
    "fencing_token",
)


class DjangoLock:
    """One row of :class:`~celery_leader.django.models.Election`.

    A renewal is one conditional ``UPDATE`` outside of any transaction. A write that changes the token also writes the
    :class:`~celery_leader.django.models.Fence`, first and in the same transaction: it waits for guards that hold the
    fence, renewals don't. On PostgreSQL :meth:`wait` can one day ``LISTEN``; now all databases are polled.
    """

    def __init__(self, connection: OwnConnection, name: str) -> None:
        """Take the row *name*, read and written on *connection*, which becomes the lock's own."""
        self._connection = connection
        self._name = name
        self._woken = threading.Event()

    def get(self) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.get`."""
        return self._connection.run(self._read)

    def create(self, record: ElectionRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.create`."""
        return self._connection.run(partial(self._insert, record))

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.update`."""
        write = self._swap if record.fencing_token == previous.record.fencing_token else self._take_over
        return self._connection.run(partial(write, record, previous))

    def wait(self, timeout: float) -> None:
        """See :meth:`celery_leader.election.Lock.wait`."""
        self._woken.wait(timeout)
        self._woken.clear()

    def interrupt(self) -> None:
        """See :meth:`celery_leader.election.Lock.interrupt`."""
        self._woken.set()

    def describe(self) -> str:
        """See :meth:`celery_leader.election.Lock.describe`."""
        return f"{self._connection.describe()}/{self._name}"

    def close(self) -> None:
        """See :meth:`celery_leader.election.Lock.close`."""
        self._connection.close()

    def _read(self, using: str) -> StoredRecord:
        try:
            row = Election.objects.using(using).get(pk=self._name)
            return StoredRecord(ElectionRecord(**{field: getattr(row, field) for field in _FIELDS}), row.version)
        except Election.DoesNotExist:
            raise RecordNotFound(f"{self.describe()} has no row") from None
        except (ValueError, TypeError, OverflowError) as error:
            table = Election._meta.db_table  # noqa: SLF001 - documented, for all its underscore
            raise RecordDamaged(
                f"{self.describe()}: row {self._name!r} of table {table} is not an election's record: {error}. "
                "Mend the row or delete it; the election then goes on."
            ) from error

    def _insert(self, record: ElectionRecord, using: str) -> StoredRecord:
        row = Election(name=self._name, renewed_at=DatabaseNow(), **_columns(record))
        try:
            with transaction.atomic(using=using, durable=True):
                self._move_fence(record.fencing_token, using)
                Election.objects.using(using).bulk_create([row])  # unlike save(), it sends no signals
        except IntegrityError:
            raise RecordConflict(f"{self.describe()} has a row already") from None
        return StoredRecord(record, row.version)

    def _swap(self, record: ElectionRecord, previous: StoredRecord, using: str) -> StoredRecord:
        columns = _columns(record)
        seen = Election.objects.using(using).filter(pk=self._name, version=previous.version)
        if not seen.update(renewed_at=DatabaseNow(), **columns):
            raise RecordConflict(f"{self.describe()} holds another record than the one to replace")
        return StoredRecord(record, columns["version"])

    def _take_over(self, record: ElectionRecord, previous: StoredRecord, using: str) -> StoredRecord:
        try:
            with transaction.atomic(using=using, durable=True):
                self._move_fence(record.fencing_token, using)
                return self._swap(record, previous, using)
        except IntegrityError:  # of two that make the first fence, the faster has the record, too
            raise RecordConflict(f"{self.describe()} was taken over by somebody else") from None

    def _move_fence(self, token: int, using: str) -> None:
        """Set the fence to *token*, waiting for those who hold it; one that is there already waits for nobody."""
        fence = Fence.objects.using(using).filter(pk=self._name)
        known = fence.values_list("token", flat=True).first()
        if known is None:
            Fence.objects.using(using).bulk_create([Fence(election=self._name, token=token)])
        elif known != token:
            fence.update(token=token)


def _columns(record: ElectionRecord) -> dict[str, object]:
    """Return what a write of *record* sets, with a version that no other write ever has."""
    return {"version": uuid4().hex, **{field: getattr(record, field) for field in _FIELDS}}
