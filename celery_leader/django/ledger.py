"""The claims of an election's beat as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from django.db import DataError, OperationalError, connections, transaction

from celery_leader.backends.reading import Reading
from celery_leader.django.models import ENTRY_LENGTH, LedgerTerm, PeriodicRun
from celery_leader.election.limits import TOO_MANY, is_count, shown, shown_value
from celery_leader.exceptions import LeadershipLost, RecordDamaged, RecordNotFound, UnstorableClaim
from celery_leader.ledger import Claim, Tick

if TYPE_CHECKING:
    from datetime import datetime

    from django.db.models import Model, QuerySet

    from celery_leader.django.connection import OwnConnection

#: How many entries one statement names: SQLite admits 999 parameters.
_BATCH = 500
#: MySQL's code of text with a character that the column's character set lacks; one of its drivers has no class for it.
_NO_SUCH_CHARACTER = 1366
#: How many rows are read in one call.
_PAGE = 2000

_WRITTEN = ["due_at", "token", "task_id", "run_count", "claimed_at", "schedule", "sent"]


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

    def open(self, token: int) -> Mapping[str, Claim]:
        """See :meth:`celery_leader.ledger.Ledger.open`."""
        reading = Reading[int]()
        page = self._connection.run(partial(self._open, token))
        while page:
            for run in page:
                reading.take(run.pk, run.entry, self._as_claim, run)
            is_last = len(page) < _PAGE
            page = [] if is_last else self._connection.run(partial(self._page, token, page[-1].pk))
        if reading.damaged:
            self._connection.run(partial(self._drop, token, list(reading.damaged)))
        reading.report(f"{self.describe()}, table {_table_of(PeriodicRun)}")
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

    def describe(self) -> str:
        """Return where the claims are, for logs: no passwords."""
        return f"{self._connection.describe()}/{self._name}"

    def close(self) -> None:
        """See :meth:`celery_leader.ledger.Ledger.close`."""
        self._connection.close()

    # -- transactions ------------------------------------------------------------------------------------------

    def _open(self, token: int, using: str) -> list[PeriodicRun]:
        """Return the first rows, as many as a call has time for."""
        with self._locked(token, using) as opened:
            self._move_term(token, opened, using)
            return list(self._runs(using).order_by("pk")[:_PAGE])

    def _page(self, token: int, after: int, using: str) -> list[PeriodicRun]:
        """Return the rows that follow the one with the key *after*, as many as a call has time for."""
        with self._locked(token, using):
            return list(self._runs(using).filter(pk__gt=after).order_by("pk")[:_PAGE])

    def _drop(self, token: int, keys: list[int], using: str) -> None:
        with self._locked(token, using):
            for start in range(0, len(keys), _BATCH):
                self._runs(using).filter(pk__in=keys[start : start + _BATCH]).delete()

    def _claim(self, token: int, claims: list[Claim], using: str) -> list[bool]:
        with _telling_what_does_not_fit(), self._locked(token, using) as opened:
            self._require_opened(token, opened)
            return self._store_later(token, claims, using)

    def _confirm(self, token: int, claims: list[Claim], using: str) -> None:
        # An id belongs to one due time of one entry: a row that has another one holds a later tick.
        ids = {claim.tick.entry: claim.task_id for claim in claims}
        with self._locked(token, using) as opened:
            self._require_opened(token, opened)
            for entries in _batches(ids, _BATCH // 2):  # each with its id
                last = self._runs(using).filter(entry__in=entries, task_id__in=[ids[entry] for entry in entries])
                last.update(sent=True)

    def _restore(self, token: int, claims: list[Claim], using: str) -> None:
        with _telling_what_does_not_fit(), self._locked(token, using) as opened:
            self._move_term(token, opened, using)
            self._store_later(token, claims, using)

    def _forget(self, token: int, entries: list[str], using: str) -> None:
        with self._locked(token, using):
            for batch in _batches(entries):
                self._runs(using).filter(entry__in=batch).delete()

    # -- the term ----------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, token: int, using: str) -> Iterator[int | None]:
        """Open a transaction in which no other term can open the ledger; yield the term that has it open.

        Raises:
            LeadershipLost: It is a later one than *token*.
            RecordDamaged: It is none that a term can have.
        """
        with transaction.atomic(using=using, durable=True):
            term = LedgerTerm.objects.using(using).select_for_update().filter(pk=self._name)
            opened = term.values_list("token", flat=True).first()
            if opened is not None:
                self._refuse_stale(token, opened)
            yield opened

    def _refuse_stale(self, token: int, opened: int) -> None:
        cure = f"delete the row {self._name!r} of the table {_table_of(LedgerTerm)}"
        if not is_count(opened):
            raise RecordDamaged(
                f"{self.describe()}: the token of its ledger is {shown_value(opened)}, and must be below {TOO_MANY}. "
                f"The cure: {cure}"
            )
        if token < opened:
            raise LeadershipLost(
                f"Election {self._election!r}: the ledger was opened by token {opened}; {token} is over", cure=cure
            )

    def _require_opened(self, token: int, opened: int | None) -> None:
        if opened != token:
            raise RecordNotFound(f"Election {self._election!r}: the ledger was not opened by token {token}")

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
        for entries in _batches({claim.tick.entry for claim in claims}):
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
            batch_size=_BATCH,
            update_conflicts=True,
            update_fields=_WRITTEN,
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
            task_id=claim.task_id,
            run_count=claim.run_count,
            claimed_at=claim.claimed_at,
            schedule=claim.schedule,
            sent=claim.sent,
        )

    def _as_claim(self, run: PeriodicRun) -> Claim:
        return Claim(
            tick=Tick(self._election, run.entry, run.due_at),
            task_id=run.task_id,
            run_count=run.run_count,
            claimed_at=run.claimed_at,
            schedule=run.schedule,
            sent=run.sent,
        )


def _table_of(model: type[Model]) -> str:
    return model._meta.db_table  # noqa: SLF001 - documented, for all its underscore


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


def _batches(entries: Iterable[str], size: int = _BATCH) -> Iterator[list[str]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, size)):
        yield batch
