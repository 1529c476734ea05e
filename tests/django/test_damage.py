"""Rows that nobody but an operator, another program or an attacker writes: each costs itself, and is named."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connections

from celery_leader.django.models import DeliveredTick, Election, LedgerTerm, PeriodicRun
from celery_leader.exceptions import (
    LeadershipLost,
    RecordConflict,
    RecordDamaged,
    RecordNotFound,
    StoreUnavailable,
    UnstorableClaim,
)
from celery_leader.testing import sample_claim, sample_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What the column of a time may hold in each database, and no date of Python's.
NO_DATES = {
    "postgresql": ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "99999-01-01", "0001-01-01 00:00:00+15:59"],
    "mysql": ["0000-00-00 00:00:00", "9999-12-31 23:59:59.999999", "0001-01-01", "1969-12-31 23:59:59"],
    "sqlite": [
        "much",
        "2026-13-45 99:99:99",
        "2026-02-31 00:00:00",
        "9999-12-31 23:59:59",
        "0001-01-01",
        "",
        7,
        b"\xff",
    ],
}


def write(alias: str, table: str, column: str, value: Any, where: str = "1 = 1") -> None:
    """Write *value* into *column* as another program does."""
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "mysql":
            cursor.execute("SET SESSION sql_mode = ''")  # or the server would refuse what an older one took
        cursor.execute(f"UPDATE {table} SET {column} = %s WHERE {where}", [value])


@contextmanager
def told(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """All log lines of a while, which must be printable and short."""
    caplog.clear()
    lines: list[str] = []
    yield lines
    lines += [each.getMessage() for each in caplog.records]
    for line in lines:
        assert line.isprintable()
        assert len(line) < 1000


class TestRecord:
    """The row of an election."""

    @pytest.mark.parametrize(
        "values",
        [
            {"fencing_token": -1},
            {"fencing_token": 2**53},
            {"fencing_token": 2**63 - 1},
            {"leader_transitions": -2},
            {"leader_transitions": 2**63 - 1},
            {"lease_duration": -0.5},
            {"lease_duration": 1e308},
            {"holder_identity": "x" * 1_000_000},
        ],
        ids=lambda values: str(values)[:40],
    )
    def test_damaged_is_told_and_left_alone(
        self, alias: str, backend_of: Callable[..., Any], values: dict[str, Any]
    ) -> None:
        """Values that no elector writes are an error that names table, row and cure; nothing overwrites them.

        The cure cures.
        """
        lock = backend_of(alias, prefix="proj").lock()
        lock.create(sample_record())
        Election.objects.using(alias).update(**values)
        with pytest.raises(RecordDamaged, match=r"'proj:default' of table celery_leader_election.*delete") as caught:
            lock.get()
        assert len(str(caught.value)) < 1000
        with pytest.raises(RecordConflict):
            lock.create(sample_record())
        assert Election.objects.using(alias).filter(**values).exists()
        Election.objects.using(alias).all().delete()
        with pytest.raises(RecordNotFound):
            lock.get()
        lock.create(sample_record())

    @pytest.mark.postgres
    def test_not_a_number_is_damage(self, postgres_alias: str, backend_of: Callable[..., Any]) -> None:
        """PostgreSQL's columns can hold NaN and infinity."""
        Election.objects.using(postgres_alias).all().delete()
        lock = backend_of(postgres_alias).lock()
        lock.create(sample_record())
        for number in ("nan", "inf"):
            Election.objects.using(postgres_alias).update(lease_duration=float(number))
            with pytest.raises(RecordDamaged, match=number):
                lock.get()

    def test_text_in_a_number_is_damage(self, sqlite_alias: str, backend_of: Callable[..., Any]) -> None:
        """SQLite's columns can hold anything."""
        for column in ("fencing_token", "lease_duration", "leader_transitions"):
            Election.objects.using(sqlite_alias).all().delete()
            lock = backend_of(sqlite_alias).lock()
            lock.create(sample_record())
            write(sqlite_alias, "celery_leader_election", column, "much")
            with pytest.raises(RecordDamaged, match="celery_leader_election"):
                lock.get()

    @pytest.mark.parametrize("column", ["acquire_time", "renew_time", "renewed_at"])
    def test_times_that_no_date_can_hold_count_for_nothing(
        self, alias: str, backend_of: Callable[..., Any], column: str
    ) -> None:
        """They are for people. The election goes on, and the next renewal writes others."""
        lock = backend_of(alias).lock()
        stored = lock.create(sample_record())
        for value in NO_DATES[connections[alias].vendor]:
            write(alias, "celery_leader_election", column, value)
            found = lock.get()
            assert found.version == stored.version
            assert getattr(found.record, column, None) is None
            assert getattr(Election.objects.using(alias).get(), column) is None
            stored = lock.update(sample_record(), found)
            assert lock.get().record == sample_record()

    def test_text_that_is_no_utf8_is_read(self, sqlite_alias: str, backend_of: Callable[..., Any]) -> None:
        """SQLite's columns can hold it; the others refuse it."""
        Election.objects.using(sqlite_alias).all().delete()
        lock = backend_of(sqlite_alias).lock()
        lock.create(sample_record())
        with connections[sqlite_alias].cursor() as cursor:
            cursor.execute("UPDATE celery_leader_election SET holder_identity = CAST(X'61FF' AS TEXT)")
        assert lock.get().record.holder_identity == "a\ufffd"


class TestLedger:
    """The rows of claims."""

    DAMAGE = (
        ("run_count", 2**63 - 1),
        ("run_count", -1),
        ("task_id", "x" * 100_000),
        ("due_at", datetime(9000, 1, 1, tzinfo=timezone.utc)),  # and claimed in the past
    )

    @pytest.mark.parametrize("number", range(len(DAMAGE)))
    def test_a_damaged_claim_harms_no_other(
        self, alias: str, backend_of: Callable[..., Any], caplog: pytest.LogCaptureFixture, number: int
    ) -> None:
        """The rest is read. It is named in one line and removed, so that a new claim takes its place."""
        ledger = backend_of(alias).ledger()
        ledger.open(1)
        ledger.claim(1, [sample_claim("good"), sample_claim("bad\x1b[31m")])
        column, value = self.DAMAGE[number]
        PeriodicRun.objects.using(alias).filter(entry__startswith="bad").update(**{column: value})
        self._is_removed(alias, ledger, caplog)

    @pytest.mark.parametrize("column", ["due_at", "claimed_at"])
    def test_times_that_no_date_can_hold_harm_no_other_claim(
        self, alias: str, backend_of: Callable[..., Any], caplog: pytest.LogCaptureFixture, column: str
    ) -> None:
        """Not even while the next one is claimed, with no look at the whole ledger before."""
        ledger = backend_of(alias).ledger()
        ledger.open(1)
        for value in NO_DATES[connections[alias].vendor]:
            ledger.forget(1, ["good", "bad\x1b[31m"])
            ledger.claim(1, [sample_claim("good"), sample_claim("bad\x1b[31m")])
            write(alias, "celery_leader_periodicrun", column, value, "entry LIKE 'bad%%'")
            self._is_removed(alias, ledger, caplog)
            write(alias, "celery_leader_periodicrun", "due_at", value, "entry LIKE 'bad%%'")
            assert list(ledger.claim(1, [sample_claim("good", 7), sample_claim("bad\x1b[31m", 7)])) == [True, True]

    @staticmethod
    def _is_removed(alias: str, ledger: Any, caplog: pytest.LogCaptureFixture) -> None:
        with told(caplog) as lines:
            assert dict(ledger.open(1)) == {"good": sample_claim("good")}
        (line,) = lines
        assert "1 damaged claim(s) removed" in line
        assert "bad\\x1b[31m" in line
        assert f"django-db://{alias}/default, table celery_leader_periodicrun" in line
        assert PeriodicRun.objects.using(alias).get().entry == "good"
        assert list(ledger.claim(1, [sample_claim("bad\x1b[31m")])) == [True]
        assert set(ledger.open(1)) == {"good", "bad\x1b[31m"}

    def test_anything_in_a_column_of_sqlite_harms_no_other(
        self, sqlite_alias: str, backend_of: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Text in numbers, numbers and bytes in texts."""
        PeriodicRun.objects.using(sqlite_alias).all().delete()
        LedgerTerm.objects.using(sqlite_alias).all().delete()
        ledger = backend_of(sqlite_alias).ledger()
        ledger.open(1)
        for column, value in [
            ("run_count", "many"), ("run_count", b"\xff"), ("task_id", b"\xff"), ("schedule", b"\xff"),
        ]:  # fmt: skip
            ledger.forget(1, ["good", "bad\x1b[31m"])
            ledger.claim(1, [sample_claim("good"), sample_claim("bad\x1b[31m")])
            write(sqlite_alias, "celery_leader_periodicrun", column, value, "entry LIKE 'bad%%'")
            self._is_removed(sqlite_alias, ledger, caplog)

    def test_names_that_are_no_utf8_harm_no_other(self, sqlite_alias: str, backend_of: Callable[..., Any]) -> None:
        """SQLite's columns can hold them; they are some unknown entry's."""
        PeriodicRun.objects.using(sqlite_alias).all().delete()
        LedgerTerm.objects.using(sqlite_alias).all().delete()
        ledger = backend_of(sqlite_alias).ledger()
        ledger.open(1)
        ledger.claim(1, [sample_claim("good"), sample_claim("bad")])
        with connections[sqlite_alias].cursor() as cursor:
            cursor.execute("UPDATE celery_leader_periodicrun SET entry = CAST(X'61FF' AS TEXT) WHERE entry = 'bad'")
        assert set(ledger.open(1)) == {"good", "a\ufffd"}
        PeriodicRun.objects.using(sqlite_alias).all().delete()

    @pytest.mark.parametrize("token", [2**53, 2**63 - 1, -1])
    def test_a_damaged_token_is_told_of_and_left_alone(
        self, alias: str, backend_of: Callable[..., Any], token: int
    ) -> None:
        """It is no newer term: a leader that stepped down for it would step down for ever. The cure cures."""
        ledger = backend_of(alias, prefix="proj").ledger()
        ledger.open(1)
        LedgerTerm.objects.using(alias).update(token=token)
        for call in (lambda: ledger.open(2), lambda: ledger.claim(1, [sample_claim()])):
            with pytest.raises(
                RecordDamaged, match=r"delete the row 'proj:default' of the table celery_leader_ledgerterm"
            ):
                call()
        assert LedgerTerm.objects.using(alias).get().token == token
        LedgerTerm.objects.using(alias).all().delete()
        assert ledger.open(2) == {}

    def test_who_is_refused_is_told_the_cure(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """For the case that no such term ever was."""
        ledger = backend_of(alias).ledger()
        ledger.open(2**53 - 1)
        with pytest.raises(LeadershipLost) as caught:
            ledger.open(7)
        assert caught.value.cure == "delete the row 'default' of the table celery_leader_ledgerterm"

    def test_many_rows_are_read_in_pages(
        self, alias: str, backend_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each in a call's time, however many there are; those of other elections are not touched."""
        monkeypatch.setattr("celery_leader.django.ledger._PAGE", 7)
        backend = backend_of(alias)
        ledger, other = backend.ledger(), backend.ledger("other")
        ledger.open(1)
        other.open(1)
        claims = [sample_claim(f"e{number}") for number in range(50)]
        for part in (claims[:20], claims[20:]):
            ledger.claim(1, part)
            other.claim(1, part)
        PeriodicRun.objects.using(alias).filter(election="default", entry__in=["e3", "e30", "e31"]).update(run_count=-1)
        assert set(ledger.open(1)) == {f"e{number}" for number in range(50)} - {"e3", "e30", "e31"}
        assert len(other.open(1)) == 50


@pytest.mark.parametrize(("code", "is_answer"), [(1366, True), (1205, False)])
def test_a_character_that_a_column_lacks_is_an_answer(
    sqlite_alias: str, backend_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, code: int, is_answer: bool
) -> None:
    """MySQL's other driver calls it an OperationalError, as it does a lock that took too long."""
    LedgerTerm.objects.using(sqlite_alias).all().delete()
    ledger = backend_of(sqlite_alias).ledger()
    ledger.open(1)

    def refuse(*_: Any) -> None:
        raise OperationalError(code, "Incorrect string value")

    monkeypatch.setattr(ledger, "_write", refuse)
    for call in (ledger.claim, ledger.restore):
        with pytest.raises(UnstorableClaim if is_answer else StoreUnavailable, match="Incorrect string value"):
            call(1, [sample_claim()])


class TestOnceStore:
    """The rows of ticks at their consumers."""

    def test_an_end_that_no_date_can_hold_is_over(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """The tick is not blocked by it for ever."""
        once_store = backend_of(alias).once_store()
        for value in NO_DATES[connections[alias].vendor]:
            DeliveredTick.objects.using(alias).all().delete()
            assert once_store.begin("tick", "a", 60).may_run
            write(alias, "celery_leader_deliveredtick", "ends_at", value)
            assert once_store.begin("tick", "b", 60).may_run
            assert once_store.done("tick", "b", 60)
            assert once_store.begin("tick", "c", 60).is_done


def test_damage_costs_no_time(alias: str, backend_of: Callable[..., Any]) -> None:
    """A thousand damaged rows among a thousand are read and removed as fast as others."""
    ledger = backend_of(alias, timeout=30).ledger()
    ledger.open(1)
    ledger.claim(1, [sample_claim(f"e{number}") for number in range(2000)])
    PeriodicRun.objects.using(alias).filter(entry__endswith="7").update(run_count=-1)
    begun = time.monotonic()
    assert len(ledger.open(1)) == 1800
    assert time.monotonic() - begun < 5
