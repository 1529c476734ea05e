"""What a ledger in a database promises beyond the contract."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction

from celery_leader.django.models import Fence, LedgerTerm, PeriodicRun
from celery_leader.exceptions import LeadershipLost, StoreUnavailable
from celery_leader.ledger import Claim, Tick
from celery_leader.testing import sample_claim
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable


def statements_of(ledger: Any, call: Callable[[], Any]) -> list[str]:
    """The first words of the statements with which *ledger* does *call*."""
    statements: list[str] = []

    def record(execute: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    ledger._connection.run(lambda using: connections[using].execute_wrappers.append(record))
    call()
    ledger._connection.run(lambda using: connections[using].execute_wrappers.clear())
    uninteresting = {"SELECT 1", "BEGIN IMMEDIATE", "BEGIN", "COMMIT"}  # the first examines the connection
    return [sql.split()[0] for sql in statements if sql not in uninteresting]


def test_hundreds_of_claims_are_few_statements(alias: str, backend_of: Callable[..., Any]) -> None:
    """New entries and known ones together: the term, what is there, one write (SQLite: in parts)."""
    ledger = backend_of(alias).ledger()
    ledger.open(1)
    ledger.claim(1, [sample_claim(f"e{number}", 1) for number in range(0, 500, 2)])
    claims = [sample_claim(f"e{number}", 2) for number in range(500)]
    statements = statements_of(ledger, lambda: ledger.claim(1, claims))
    assert statements[:3] == ["SELECT", "SELECT", "INSERT"]
    assert len(statements) <= (12 if connections[alias].vendor == "sqlite" else 3)
    assert statements_of(ledger, lambda: ledger.confirm(1, claims)) == ["SELECT", "UPDATE", "UPDATE"]
    assert PeriodicRun.objects.using(alias).filter(sent=True).count() == 500


def test_thousands_of_claims_fit(alias: str, backend_of: Callable[..., Any]) -> None:
    """More than any database admits parameters in one statement."""
    ledger = backend_of(alias, timeout=30).ledger()
    ledger.open(1)
    claims = [sample_claim(f"e{number}", 1) for number in range(3000)]
    assert all(ledger.claim(1, claims))
    ledger.confirm(1, claims)
    ledger.forget(1, [f"e{number}" for number in range(2999)])
    assert dict(ledger.open(1)) == {"e2999": replace(claims[-1], sent=True)}


def test_names_may_be_long_and_differ_in_case(alias: str, backend_of: Callable[..., Any]) -> None:
    """500 characters of four bytes; "Tick" is not "tick"."""
    ledger = backend_of(alias, prefix="p" * 100).ledger()
    ledger.open(1)
    entries = ["𝄞" * 500, "tick", "Tick", "tïck"]
    assert list(ledger.claim(1, [sample_claim(entry) for entry in entries])) == [True] * 4
    assert set(ledger.open(1)) == set(entries)


def test_rows_name_term_and_prefix(alias: str, backend_of: Callable[..., Any]) -> None:
    """What an operator sees."""
    ledger = backend_of(alias, prefix="proj").ledger("reports")
    ledger.open(2**50)
    ledger.claim(2**50, [sample_claim("tick", 3)])
    row = PeriodicRun.objects.using(alias).get()
    assert (row.election, row.entry, row.token, row.sent) == ("proj:reports", "tick", 2**50, False)
    assert str(row) == "tick @ 2026-11-23 09:00:03"
    assert LedgerTerm.objects.using(alias).get().token == 2**50


def test_times_are_moments_whatever_the_project_sets(alias: str, backend_of: Callable[..., Any], settings: Any) -> None:
    """Two due times in the hour that comes twice stay two, with USE_TZ off and a local TIME_ZONE."""
    settings.TIME_ZONE, settings.USE_TZ = "America/New_York", False
    first = datetime(2026, 11, 1, 5, 30, 0, 7, tzinfo=timezone.utc)
    ledger = backend_of(alias).ledger()
    ledger.open(1)
    for due in (first, first + timedelta(hours=1)):
        claim = Claim(Tick("default", "tick", due), "id", 1, due)
        assert list(ledger.claim(1, [claim])) == [True]
        assert ledger.open(1)["tick"] == claim
        assert list(ledger.claim(1, [claim])) == [False]


def test_a_call_that_had_begun_is_refused_too(server_alias: str, backend_of: Callable[..., Any]) -> None:
    """A stale term that waits for the next one's opening finds itself stale: it checks under the lock."""
    ledger = backend_of(server_alias).ledger()
    ledger.open(1)
    outcome: list[BaseException] = []

    def claim() -> None:
        try:
            ledger.claim(1, [sample_claim("a", 1)])
        except LeadershipLost as error:
            outcome.append(error)

    with transaction.atomic(using=server_alias):
        LedgerTerm.objects.using(server_alias).select_for_update().update(token=2)
        thread = threading.Thread(target=claim)
        thread.start()
        eventually(lambda: waits_for_a_lock(server_alias), interval=0.2, what="the claim waits")
    thread.join(10)
    assert "token 2; 1 is over" in str(outcome[0])
    assert not PeriodicRun.objects.using(server_alias).exists()


def waits_for_a_lock(alias: str) -> bool:
    """Whether somebody does. MariaDB answers from a cache that each question within 0.1 s keeps alive."""
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "postgresql":
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        else:
            cursor.execute("SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
        return bool(cursor.fetchone()[0])


def test_does_not_wait_for_guards(server_alias: str, backend_of: Callable[..., Any]) -> None:
    """Beat goes on while a guarded transaction holds the fence."""
    ledger = backend_of(server_alias, timeout=2).ledger()
    Fence.objects.using(server_alias).create(election="default", token=1)
    with transaction.atomic(using=server_alias):
        Fence.objects.using(server_alias).select_for_update().get()
        ledger.open(1)
        assert list(ledger.claim(1, [sample_claim()])) == [True]


def test_waits_no_longer_than_it_may(server_alias: str, backend_of: Callable[..., Any]) -> None:
    """For another that holds the ledger's term; nothing was stored."""
    ledger = backend_of(server_alias, timeout=1).ledger()
    ledger.open(1)
    with transaction.atomic(using=server_alias):
        LedgerTerm.objects.using(server_alias).select_for_update().get()
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            ledger.claim(1, [sample_claim()])
        assert time.monotonic() - begun < 1.5
    assert ledger.open(1) == {}


def test_a_process_that_stops_in_a_transaction_blocks_nobody_for_ever(
    server_alias: str, backend_of: Callable[..., Any]
) -> None:
    """The server ends a transaction of ours in which nothing happens: who vanished keeps no row locked."""
    stuck, other = backend_of(server_alias, timeout=1).ledger(), backend_of(server_alias, timeout=10).ledger()
    stuck.open(1)
    go_on = threading.Event()

    def stop(using: str) -> None:
        with transaction.atomic(using=using):
            LedgerTerm.objects.using(using).select_for_update().get()
            go_on.wait(30)

    with pytest.raises(StoreUnavailable):
        stuck._connection.run(stop)
    try:
        other.open(2)
    finally:
        go_on.set()
