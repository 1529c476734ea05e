"""The record of an election as a row."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from django.db import IntegrityError, transaction

from celery_leader.backends.listening import Notifications
from celery_leader.django.fields import DatabaseNow
from celery_leader.django.models import Election, Fence, table_of
from celery_leader.django.notifications import PostgresListener, channel_of, notify
from celery_leader.django.options import is_postgresql
from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.election.limits import shown
from celery_leader.exceptions import RecordConflict, RecordDamaged, RecordNotFound, StoreUnavailable

if TYPE_CHECKING:
    from celery_leader.django.connection import OwnConnection

_FIELDS = (
    "holder_identity",
    "lease_duration",
    "acquire_time",
    "renew_time",
    "leader_transitions",
    "fencing_token",
    "deployment",
)


class DjangoLock:
    """One row of :class:`~celery_leader.django.models.Election`.

    A renewal is one conditional ``UPDATE`` outside of any transaction. A write that changes the token also writes the
    :class:`~celery_leader.django.models.Fence`, first and in the same transaction: it waits for guards that hold the
    fence, renewals don't. On PostgreSQL a write that changes the holder tells so in its transaction, and
    :meth:`wait` listens; other databases are polled.
    """

    def __init__(self, connection: OwnConnection, name: str, *, listen: bool = True) -> None:
        """Take the row *name*, read and written on *connection*, which becomes the lock's own.

        Args:
            connection: Of this lock alone.
            name: The election's, with its prefix.
            listen: Whether to tell and to hear of changes where the database can.
        """
        self._connection = connection
        self._name = name
        self._channel = channel_of(name) if listen and is_postgresql(connection.alias) else ""
        self._notifications = Notifications(
            partial(PostgresListener, connection, self._channel) if self._channel else None
        )
        self._is_silent = False

    def get(self) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.get`."""
        return self._saw(self._connection.run(self._read))

    def create(self, record: ElectionRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.create`."""
        return self._change_holder(record, None)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.update`."""
        seen = previous.record
        if (record.fencing_token, record.holder_identity) == (seen.fencing_token, seen.holder_identity):
            return self._saw(self._connection.run(partial(self._swap, record, previous)))
        return self._change_holder(record, previous)

    def wait(self, timeout: float) -> None:
        """See :meth:`celery_leader.election.Lock.wait`."""
        self._notifications.wait(timeout)

    def interrupt(self) -> None:
        """See :meth:`celery_leader.election.Lock.interrupt`."""
        self._notifications.interrupt()

    def describe(self) -> str:
        """See :meth:`celery_leader.election.Lock.describe`."""
        return f"{self._connection.where}/{self._name}"

    def close(self) -> None:
        """See :meth:`celery_leader.election.Lock.close`."""
        self._notifications.close()
        self._connection.close()

    def _saw(self, stored: StoredRecord) -> StoredRecord:
        self._notifications.seen(stored.record.holder_identity)
        return stored

    def _change_holder(self, record: ElectionRecord, previous: StoredRecord | None) -> StoredRecord:
        """Write a record of another term or holder. After a failure, the retry skips NOTIFY: it may be the cause."""
        try:
            stored = self._connection.run(partial(self._hand_over, record, previous))
        except StoreUnavailable:
            self._is_silent = True
            raise
        self._is_silent = False
        return self._saw(stored)

    def _read(self, using: str) -> StoredRecord:
        try:
            row = Election.objects.using(using).get(pk=self._name)
            return StoredRecord(ElectionRecord(**{field: getattr(row, field) for field in _FIELDS}), row.version)
        except Election.DoesNotExist:
            raise RecordNotFound(f"{self.describe()} has no row") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise RecordDamaged(
                f"{self.describe()}: row {self._name!r} of table {table_of(Election)} is not an election's record: "
                f"{shown(error)}. Mend the row or delete it; the election then goes on."
            ) from error

    def _insert(self, record: ElectionRecord, using: str) -> StoredRecord:
        row = Election(name=self._name, renewed_at=DatabaseNow(), **_columns(record))
        Election.objects.using(using).bulk_create([row])  # unlike save(), it sends no signals
        return StoredRecord(record, row.version)

    def _swap(self, record: ElectionRecord, previous: StoredRecord, using: str) -> StoredRecord:
        columns = _columns(record)
        seen = Election.objects.using(using).filter(pk=self._name, version=previous.version)
        if not seen.update(renewed_at=DatabaseNow(), **columns):
            raise RecordConflict(f"{self.describe()} holds another record than the one to replace")
        return StoredRecord(record, columns["version"])

    def _hand_over(self, record: ElectionRecord, previous: StoredRecord | None, using: str) -> StoredRecord:
        try:
            with transaction.atomic(using=using, durable=True):
                if previous is None or record.fencing_token != previous.record.fencing_token:
                    self._move_fence(record.fencing_token, using)
                stored = self._swap(record, previous, using) if previous else self._insert(record, using)
                self._tell(record, using)
                return stored
        except IntegrityError:  # of two that make the first fence, the faster has the record, too
            raise RecordConflict(f"{self.describe()} was written by somebody else") from None

    def _tell(self, record: ElectionRecord, using: str) -> None:
        """Announce the holder of *record* to those who listen, once the transaction is committed."""
        if self._channel and not self._is_silent:
            notify(self._channel, record.holder_identity, using)

    def _move_fence(self, token: int, using: str) -> None:
        """Set the fence to *token*, waiting for its holders. A fence that has the token already waits for nobody."""
        fence = Fence.objects.using(using).filter(pk=self._name)
        known = fence.values_list("token", flat=True).first()
        if known is None:
            Fence.objects.using(using).bulk_create([Fence(election=self._name, token=token)])
        elif known != token:
            fence.update(token=token)


def _columns(record: ElectionRecord) -> dict[str, object]:
    """Return what a write of *record* sets, with a version that no other write ever has."""
    return {"version": uuid4().hex, **{field: getattr(record, field) for field in _FIELDS}}
