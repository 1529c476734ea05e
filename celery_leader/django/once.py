"""What became of ticks at their consumers, as rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.models import ExpressionWrapper

from celery_leader.backends import Admission
from celery_leader.django.fields import DatabaseNow, UtcDateTimeField
from celery_leader.django.models import DeliveredTick, row_name
from celery_leader.exceptions import RecordConflict, StoreUnavailable
from celery_leader.ledger import BATCH

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from celery_leader.django.connection import OwnConnection

#: Rows that have ended are deleted by whoever begins a tick: each process looks once in so many seconds, and deletes no
#: more than a batch. A full batch lets it look again the next time.
PRUNED_EACH = 60.0
PRUNED_TOGETHER = BATCH

_MOST_SWAPS = 3


class DjangoOnceStore:
    """Rows of :class:`~celery_leader.django.models.DeliveredTick`, one a tick.

    Claims are single statements in autocommit: no row stays locked, so no delivery waits for another and none can
    deadlock.
    """

    def __init__(self, connection: OwnConnection, prefix: str) -> None:
        """Take the rows that begin with *prefix*, on *connection*, which becomes the object's own."""
        self._connection = connection
        self._prefix = prefix
        self._prune_at = time.monotonic()

    def begin(self, tick: str, owner: str, seconds: float) -> Admission:
        """See :meth:`celery_leader.backends.OnceStore.begin`."""
        admission = self._connection.run(partial(self._begin, self._name(tick), owner, seconds))
        if time.monotonic() >= self._prune_at:
            self._prune()
        return admission

    def done(self, tick: str, owner: str, seconds: float) -> bool:
        """See :meth:`celery_leader.backends.OnceStore.done`."""
        return self._connection.run(partial(self._done, self._name(tick), owner, seconds))

    def release(self, tick: str, owner: str) -> None:
        """See :meth:`celery_leader.backends.OnceStore.release`."""
        name = self._name(tick)
        self._connection.run(lambda using: _rows(using).filter(pk=name, owner=owner, done=False).delete())

    @contextmanager
    def transaction(self, tick: str, owner: str, seconds: float) -> Iterator[None]:
        """See :meth:`celery_leader.backends.TransactionalOnceStore.transaction`.

        The row is written last, so that it is not locked while the block runs.
        """
        using, name = self._connection.alias, self._name(tick)
        with transaction.atomic(using=using):
            yield
            held = _rows(using).filter(pk=name, owner=owner, done=False)
            if not held.update(done=True, ends_at=_in(seconds)):
                raise RecordConflict(f"{self._connection.where}: the claim of tick {tick} by {owner} has ended")

    def close(self) -> None:
        """See :meth:`celery_leader.backends.OnceStore.close`."""
        self._connection.close()

    def _name(self, tick: str) -> str:
        return row_name(self._prefix, tick, of="a tick")

    # -- statements --------------------------------------------------------------------------------------------

    def _begin(self, name: str, owner: str, seconds: float, using: str) -> Admission:
        row = DeliveredTick(tick=name, owner=owner, ends_at=_in(seconds))
        wait = 0.0
        _rows(using).bulk_create([row], ignore_conflicts=True)
        for _ in range(_MOST_SWAPS):
            seen = _rows(using).filter(pk=name).annotate(now=DatabaseNow()).first()
            if seen is None:  # released since
                _rows(using).bulk_create([row], ignore_conflicts=True)
                continue
            wait = (seen.ends_at - seen.now) / timedelta(seconds=1) if seen.ends_at else 0.0  # nobody wrote such a time
            if seen.done and wait > 0:
                return Admission(is_done=True)
            if seen.owner == owner and not seen.done and wait > 0:
                return Admission(may_run=True)
            if wait > 0:
                return Admission(wait=wait)
            # Whoever has ended can still be the first to write the row: it must be as it was seen.
            ended = _rows(using).filter(pk=name, owner=seen.owner, done=seen.done)
            if seen.ends_at:
                ended = ended.filter(ends_at=seen.ends_at)
            if ended.update(owner=owner, done=False, ends_at=_in(seconds)):
                return Admission(may_run=True)
        return Admission(wait=max(0.0, wait))  # others are faster; one of them has it

    def _done(self, name: str, owner: str, seconds: float, using: str) -> bool:
        note: dict[str, Any] = {"done": True, "ends_at": _in(seconds)}
        if _rows(using).filter(pk=name, owner=owner, done=False).update(**note):
            return True
        has_target = connections[using].features.supports_update_conflicts_with_target
        _rows(using).bulk_create(
            [DeliveredTick(tick=name, owner=owner, **note)],
            update_conflicts=True,
            update_fields=["owner", "done", "ends_at"],
            unique_fields=["tick"] if has_target else None,
        )
        return False

    # -- pruning -----------------------------------------------------------------------------------------------

    def _prune(self) -> None:
        self._prune_at = time.monotonic() + PRUNED_EACH
        try:
            if self._connection.run(_delete_ended) == PRUNED_TOGETHER:
                self._prune_at = time.monotonic()
        except StoreUnavailable:  # another may have deleted the same rows; they are in nobody's way
            return


def _rows(using: str) -> QuerySet[DeliveredTick]:
    rows: QuerySet[DeliveredTick] = DeliveredTick.objects.using(using)
    return rows


def _delete_ended(using: str) -> int:
    ended = _rows(using).filter(ends_at__lt=DatabaseNow())
    names = list(ended.order_by("ends_at").values_list("pk", flat=True)[:PRUNED_TOGETHER])
    if names:
        ended.filter(pk__in=names).delete()
    return len(names)


def _in(seconds: float) -> Any:
    """Return the moment *seconds* from now, by the database's clock."""
    return ExpressionWrapper(DatabaseNow() + timedelta(seconds=seconds), output_field=UtcDateTimeField())
