"""The faults of a store's client. Simulated worlds have a store of their own: contracts notice these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_leader.election import StoredRecord
from celery_leader.exceptions import RecordConflict
from tests.simulation.mutants.registry import mutant

if TYPE_CHECKING:
    from celery_leader.election import ElectionRecord


@mutant(killer="tests/django/test_contract.py::TestDjangoLock")
def m15_rows_are_not_counted() -> None:
    """Takes an UPDATE that ran for a row that was written."""
    from celery_leader.django.lock import DjangoLock

    swap = DjangoLock._swap

    def careless(self: DjangoLock, record: ElectionRecord, previous: StoredRecord, using: str) -> StoredRecord:
        try:
            return swap(self, record, previous, using)
        except RecordConflict:
            return StoredRecord(record, previous.version)

    DjangoLock._swap = careless


@mutant(killer="tests/django/test_lock.py")
def m15a_a_version_for_each_content() -> None:
    """Names a version by what the record says, so that writing the same once more changes no row."""
    from celery_leader.django import lock

    columns = lock._columns
    lock._columns = lambda record: {**columns(record), "version": str(hash(record))}
