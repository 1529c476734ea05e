"""The claims of an election's beat as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from django.db import DataError, OperationalError, connections, transaction

from celery_leader.backends.reading import Reading
from celery_leader.django.models import ENTRY_LENGTH, LedgerTerm, PeriodicRun, table_of
from celery_leader.election.limits import shown
from celery_leader.exceptions import UnstorableClaim
from celery_leader.ledger import BATCH, Claim, Refusals, Tick, batches

if TYPE_CHECKING:
    from datetime import datetime

    from django.db.models import QuerySet

    from celery_leader.django.connection import OwnConnection

#: MySQL's code of text with a character that the column's character set lacks; one of its drivers has no class for it.
_NO_SUCH_CHARACTER = 1366
#: How many rows are read in one call.
_PAGE = 2000

#: What a row and a claim have under the same name.
_COPIED = ("task_id", "run_count", "claimed_at", "schedule", "sent")


class DjangoLedger:
    """Rows of :class:`~celery_leader.django.models.PeriodicRun`, one an entry.

    Every call is one short transaction that first locks the election's
    :class:`~celery_leader.django.models.LedgerTerm`, so calls of one election follow one another and a stale term is
    refused whatever it had read before.
    """

    def __init__(self, connection: OwnConnection, name: str, election: str) -> None:
        """Take the rows of *name* (the election's, with its prefix) on *connection*, which becomes the ledger's own."""
        self._connection = connection
        self._name = name
        self._election = election
        where = f"{connection.where}/{name}"
        self._refusals = Refusals(election, where, f"delete the row {name!r} of the table {table_of(LedgerTerm)}")

    def open(self, token: int) -> Mapping[str, Claim]:
        """See :meth:`celery_leader.ledger.Ledger.open`."""
        reading = Reading[int]()
        after: int | None = None
        is_last = False
        while not is_last:
            page = self._connection.run(partial(self._page, token, after))
            for run in page:
                reading.take(run.pk, run.entry, self._as_claim, run)
                after = run.pk
            is_last = len(page) < _PAGE
        if reading.damaged:
            self._connection.run(partial(self._drop, token, list(reading.damaged)))
        reading.report(f"{self._refusals.where}, table {table_of(PeriodicRun)}")
        return reading.claims

    def claim(self, token: int, claims: Sequence[Claim]) -> Sequence[bool]:
        """See :meth:`celery_leader.ledger.Ledger.claim`."""
        return self._connection.run(partial(self._claim, token, list(claims)))

    def confirm(self, token: int, claims: Iterable[Claim]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.confirm`."""
        self._connection.run(partial(self._confirm, token, list(claims)))

    def restore(self, token: int, claims: Iterable[Claim]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.restore`."""
        self._connection.run(partial(self._restore, token, list(claims)))

    def forget(self, token: int, entries: Iterable[str]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.forget`."""
        self._connection.run(partial(self._forget, token, list(entries)))

    def close(self) -> None:
        """See :meth:`celery_leader.ledger.Ledger.close`."""
        self._connection.close()

    # -- transactions ------------------------------------------------------------------------------------------

    def _page(self, token: int, after: int | None, using: str) -> list[PeriodicRun]:
        """Return as many rows as a call has time for: those after the key *after*, or the first, which opens."""
        with self._locked(token, using) as opened:
            rows = self._runs(using).order_by("pk")
            if after is None:
                self._move_term(token, opened, using)
            else:
                rows = rows.filter(pk__gt=after)
            return list(rows[:_PAGE])

    def _drop(self, token: int, keys: list[int], using: str) -> None:
        with self._locked(token, using):
            for some in batches(keys):
                self._runs(using).filter(pk__in=some).delete()

    def _claim(self, token: int, claims: list[Claim], using: str) -> list[bool]:
        with _telling_what_does_not_fit(), self._locked(token, using, must_be_open=True):
            return self._store_later(token, claims, using)

    def _confirm(self, token: int, claims: list[Claim], using: str) -> None:
        # An id belongs to one due time of one entry: a row that has another one holds a later tick.
        ids = {claim.tick.entry: claim.task_id for claim in claims}
        with self._locked(token, using, must_be_open=True):
            for entries in batches(ids, BATCH // 2):  # each with its id: SQLite admits 999 parameters
                last = self._runs(using).filter(entry__in=entries, task_id__in=[ids[entry] for entry in entries])
                last.update(sent=True)

    def _restore(self, token: int, claims: list[Claim], using: str) -> None:
        with _telling_what_does_not_fit(), self._locked(token, using) as opened:
            self._move_term(token, opened, using)
            self._store_later(token, claims, using)

    def _forget(self, token: int, entries: list[str], using: str) -> None:
        with self._locked(token, using):
            for some in batches(entries):
                self._runs(using).filter(entry__in=some).delete()

    # -- the term ----------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, token: int, using: str, *, must_be_open: bool = False) -> Iterator[int | None]:
        """Open a transaction in which no other term can open the ledger; yield the term that has it open.

        Raises:
            LeaderError: This call must be refused; see :meth:`~celery_leader.ledger.Refusals.check`.
        """
        with transaction.atomic(using=using, durable=True):
            term = LedgerTerm.objects.using(using).select_for_update().filter(pk=self._name)
            opened = term.values_list("token", flat=True).first()
            self._refusals.check(token, opened, must_be_open=must_be_open)
            yield opened

    def _move_term(self, token: int, opened: int | None, using: str) -> None:
        if opened is None:
            LedgerTerm.objects.using(using).bulk_create([LedgerTerm(election=self._name, token=token)])
        elif opened != token:
            LedgerTerm.objects.using(using).filter(pk=self._name).update(token=token)

    # -- rows --------------------------------------------------------------------------------------------------

    def _runs(self, using: str) -> QuerySet[PeriodicRun]:
        runs: QuerySet[PeriodicRun] = PeriodicRun.objects.using(using).filter(election=self._name)
        return runs

    def _store_later(self, token: int, claims: list[Claim], using: str) -> list[bool]:
        """Store those of *claims* that are later than their entry's last; return for each whether it is."""
        last: dict[str, datetime | None] = {}
        for entries in batches({claim.tick.entry for claim in claims}):
            last.update(self._runs(using).filter(entry__in=entries).values_list("entry", "due_at"))
        later: dict[str, Claim] = {}
        results = []
        for claim in claims:
            entry, due_at = claim.tick.entry, claim.tick.due_at
            known = last.get(entry)  # none, too, where the row has no time that can be read
            is_later = known is None or known < due_at
            if is_later:
                later[entry], last[entry] = claim, due_at
            results.append(is_later)
        self._write([self._as_run(token, claim) for claim in later.values()], using)
        return results

    @staticmethod
    def _write(runs: list[PeriodicRun], using: str) -> None:
        """Insert *runs* or overwrite those of the same entries, in as few statements as the database allows."""
        has_target = connections[using].features.supports_update_conflicts_with_target
        PeriodicRun.objects.using(using).bulk_create(
            runs,
            batch_size=BATCH,
            update_conflicts=True,
            update_fields=["due_at", "token", *_COPIED],
            unique_fields=["election", "entry"] if has_target else None,
        )

    def _as_run(self, token: int, claim: Claim) -> PeriodicRun:
        if len(claim.tick.entry) > ENTRY_LENGTH:  # MySQL without its strict mode would cut it off, and say nothing
            raise ValueError(f"the name has {len(claim.tick.entry)} characters")
        return PeriodicRun(
            election=self._name,
            entry=claim.tick.entry,
            due_at=claim.tick.due_at,
            token=token,
            **{name: getattr(claim, name) for name in _COPIED},
        )

    def _as_claim(self, run: PeriodicRun) -> Claim:
        tick = Tick(self._election, run.entry, run.due_at)
        return Claim(tick, **{name: getattr(run, name) for name in _COPIED})


@contextmanager
def _telling_what_does_not_fit() -> Iterator[None]:
    """Turn every way in which drivers and databases refuse a value into one.

    Raises:
        UnstorableClaim: A value does not fit.
    """
    try:
        yield
    except (DataError, OperationalError, ValueError, OverflowError) as error:
        if isinstance(error, OperationalError) and error.args[:1] != (_NO_SUCH_CHARACTER,):
            raise
        raise UnstorableClaim(
            f"{shown(error)}. Rename the entry: a name has {ENTRY_LENGTH} characters at most, and no NUL in it"
        ) from error
