"""The connections of locks and ledgers: strangers to the application's, and bounded whatever the server does."""

from __future__ import annotations

import gc
import os
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction

from celery_leader.backends import open_backend
from celery_leader.django.connection import _LOGIN_REFUSED
from celery_leader.django.models import Election
from celery_leader.exceptions import RecordNotFound, StoreUnavailable
from celery_leader.testing import sample_claim, sample_record
from tests.databases import variant
from tests.django.conftest import own_threads, race, takeover
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable


class TestConnection:
    """The application's connections and its are strangers."""

    def test_is_not_part_of_a_transaction(self, server_alias: str, backend_of: Callable[..., Any]) -> None:
        """What a lock writes while its thread is in a transaction on the same alias stays when that is undone."""
        lock = backend_of(server_alias).lock()
        with transaction.atomic(using=server_alias):
            stored = lock.create(sample_record())
            transaction.set_rollback(True, using=server_alias)
        assert lock.get() == stored

    def test_is_not_among_djangos(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Code that closes all connections, as Celery does around tasks, does not meet it."""
        lock = backend_of(alias).lock()
        lock.create(sample_record())
        before = own_threads()
        connections.close_all()
        assert set(connections) == set(connections.settings)
        lock.get()
        assert own_threads() == before

    def test_ends_with_close(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Its thread ends, too."""
        lock = backend_of(alias).lock()
        lock.create(sample_record())
        assert own_threads()
        lock.close()
        assert not own_threads()

    def test_ends_with_a_lock_that_nobody_closes(self, alias: str) -> None:
        """No thread is left behind, nor what it has open."""
        before, files = own_threads(), set(os.listdir("/proc/self/fd"))
        lock = open_backend(f"django-db://{alias}").lock("nobody's")
        with suppress(RecordNotFound):
            lock.get()
        assert len(own_threads()) == len(before) + 1
        del lock
        # The thread may have what it was asked, and so the lock, for a moment longer than the answer.
        eventually(lambda: gc.collect() >= 0 and own_threads() == before, what="the thread ended")
        assert set(os.listdir("/proc/self/fd")) <= files

    def test_is_not_a_forked_childs(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """The child opens its own, waits for no thread that it does not have, and leaves its parent's alone."""
        lock = backend_of(alias, timeout=5).lock()
        stored = lock.create(sample_record())
        parents = lock._connection.run(lambda using: connections[using].connection)
        child = os.fork()
        if child == 0:
            found = False
            try:
                found = lock.get() == stored
                lock.close()
            finally:
                os._exit(0 if found else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert lock.get() == stored
        assert lock._connection.run(lambda using: connections[using].connection) is parents

    @pytest.mark.parametrize(
        "changes",
        [
            {"ATOMIC_REQUESTS": True},
            {"AUTOCOMMIT": False},
            {"CONN_MAX_AGE": 0},
            {"CONN_HEALTH_CHECKS": True},
            {"TIME_ZONE": "Europe/Berlin"},
        ],
        ids=str,
    )
    def test_does_without_the_aliass_habits(
        self, alias: str, backend_of: Callable[..., Any], changes: dict[str, Any]
    ) -> None:
        """Settings of the alias that suit requests do not reach it."""
        with variant(alias, **changes) as name:
            self._use(backend_of, name, alias)
            assert Election.objects.using(name).get() == Election.objects.using(alias).get()
            assert Election.objects.using(name).get().renew_time == sample_record().renew_time

    @pytest.mark.postgres
    @pytest.mark.parametrize(
        "options",
        [
            {"pool": True},
            {"pool": {"min_size": 1, "max_size": 1}},
            {"isolation_level": 3},
            {"options": "-c default_transaction_isolation=serializable -c TimeZone=Asia/Tokyo"},
        ],
        ids=str,
    )
    def test_does_without_options_of_postgres(
        self, postgres_alias: str, backend_of: Callable[..., Any], options: dict[str, Any]
    ) -> None:
        """A pool may be lent out, and other isolation levels refuse what can be decided."""
        Election.objects.using(postgres_alias).all().delete()
        with variant(postgres_alias, OPTIONS=options) as name:
            self._use(backend_of, name, postgres_alias)
            self._contend(backend_of(name))

    @pytest.mark.postgres
    def test_waits_for_no_pool(self, postgres_alias: str, backend_of: Callable[..., Any]) -> None:
        """Tasks hold all that the alias's pool has, which makes others wait for half a minute: not elections."""
        Election.objects.using(postgres_alias).all().delete()
        pool = {"min_size": 1, "max_size": 1, "timeout": 30}
        with variant(postgres_alias, OPTIONS={"pool": pool}, CONN_MAX_AGE=0) as name:
            with connections[name].cursor() as held:
                held.execute("SELECT 1")
                assert connections[name].pool.get_stats()["pool_available"] == 0
                backend = backend_of(name, timeout=2)
                lock, ledger = backend.lock(), backend.ledger()
                begun = time.monotonic()
                stored = lock.create(sample_record())
                assert lock.update(takeover(stored), stored) == lock.get()
                token = time.time_ns() // 1000  # greater than those of earlier tests
                ledger.open(token)
                assert list(ledger.claim(token, [sample_claim(f"tick-{token}")])) == [True]
                assert time.monotonic() - begun < 2
            connections[name].close()
            connections[name].close_pool()

    @pytest.mark.mariadb
    @pytest.mark.parametrize(
        "options",
        [
            {"isolation_level": "repeatable read"},
            {"isolation_level": None},
            {"init_command": "SET time_zone = '+05:00', autocommit = 0"},
        ],
        ids=str,
    )
    def test_does_without_options_of_mariadb(
        self, mariadb_alias: str, backend_of: Callable[..., Any], options: dict[str, Any]
    ) -> None:
        """Neither a session that is not in UTC nor repeatable reads harm it."""
        Election.objects.using(mariadb_alias).all().delete()
        with variant(mariadb_alias, OPTIONS=options) as name:
            self._use(backend_of, name, mariadb_alias)
            self._contend(backend_of(name))

    @staticmethod
    def _use(backend_of: Callable[..., Any], name: str, alias: str) -> None:
        """Write by one lock and ledger and find by others, of the plain alias, what was written."""
        backend, plain = backend_of(name), backend_of(alias)
        backend.check()
        lock = backend.lock()
        stored = lock.create(sample_record())
        stored = lock.update(takeover(stored), stored)
        assert plain.lock().get() == stored
        renewed_at = Election.objects.using(alias).get().renewed_at
        assert abs(renewed_at - datetime.now(timezone.utc)) < timedelta(seconds=30)
        lock.close()
        token = time.time_ns() // 1000  # greater than those of earlier tests
        ledger, claim = backend.ledger(), sample_claim(f"tick-{token}")
        ledger.open(token)
        assert list(ledger.claim(token, [claim])) == [True]
        assert list(ledger.claim(token, [claim])) == [False]
        assert plain.ledger().open(token)[claim.tick.entry] == claim
        ledger.close()

    @staticmethod
    def _contend(backend: Any) -> None:
        locks = [backend.lock() for _ in range(4)]
        outcomes = race(locks, locks[0].get())
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["RecordConflict"] * 3 + ["StoredRecord"]

    def test_asks_no_router(self, alias: str, backend_of: Callable[..., Any], settings: Any) -> None:
        """A router that sends reads to a replica has no say."""
        settings.DATABASE_ROUTERS = ["tests.django.test_connection.NowhereRouter"]
        lock = backend_of(alias).lock()
        stored = lock.create(sample_record())
        assert lock.update(takeover(stored), stored) == lock.get()
        ledger = backend_of(alias).ledger()
        ledger.open(1)
        assert list(ledger.claim(1, [sample_claim()])) == [True]
        ledger.confirm(1, [sample_claim()])
        assert ledger.open(1)["tick"].sent

    def test_follows_the_aliass_current_settings(self, sqlite_alias: str, tmp_path: Any, backend_of: Any) -> None:
        """A test runner renames databases after the backend was made."""
        Election.objects.using(sqlite_alias).all().delete()
        backend_of(sqlite_alias).lock().create(sample_record())
        with variant(sqlite_alias, NAME=str(tmp_path / "elsewhere")) as name:
            lock = backend_of(name).lock()
            connections.settings[name]["NAME"] = connections.settings[sqlite_alias]["NAME"]
            assert lock.get().record == sample_record()

    def test_without_time_zones(self, alias: str, backend_of: Callable[..., Any], settings: Any) -> None:
        """Times are the same moments when USE_TZ is off, also in the hour that comes twice where the project is."""
        first = datetime(2026, 11, 1, 5, 30, 0, 7, tzinfo=timezone.utc)  # 01:30 in New York, summer time
        times = [first, first + timedelta(hours=1)]  # 01:30 again, winter time
        writer = backend_of(alias).lock()
        stored = writer.create(sample_record(acquire_time=times[0], renew_time=times[1]))
        settings.TIME_ZONE, settings.USE_TZ = "America/New_York", False
        with variant(alias) as name:
            lock = backend_of(name).lock()
            assert lock.get() == stored
            again = lock.update(stored.record, stored)
        settings.USE_TZ = True
        assert writer.get() == again


class NowhereRouter:
    """Sends everything to an alias that is not there."""

    def db_for_read(self, model: object, **hints: object) -> str:
        return "nowhere"

    db_for_write = db_for_read


def test_costs_one_statement_a_call(alias: str, backend_of: Callable[..., Any]) -> None:
    """A renewal is one UPDATE, a look one SELECT; before each the connection is examined."""
    backend = backend_of(alias)
    lock = backend.lock()
    stored = lock.create(sample_record())
    statements: list[str] = []

    def record(execute: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    lock._connection.run(lambda using: connections[using].execute_wrappers.append(record))
    lock.update(stored.record, stored)
    lock.get()
    assert [statement.split()[0] for statement in statements] == ["SELECT", "UPDATE", "SELECT", "SELECT"]
    assert statements[0] == "SELECT 1"


def test_a_refused_login_is_said(server_alias: str, backend_of: Callable[..., Any]) -> None:
    """The database is there: to start it would not help."""
    said = pytest.raises(StoreUnavailable, match="refused the login: ")
    with variant(server_alias, USER="nobody_of_that_name", PASSWORD="wrong") as other, said:
        backend_of(other).lock().get()


@pytest.mark.parametrize(
    ("cause", "is_refused"),
    [
        ('FATAL: password authentication failed for user "x"', True),
        ("fe_sendauth: no password supplied", True),
        ('no pg_hba.conf entry for host "1.2.3.4", user "x"', True),
        ("(1045, \"Access denied for user 'x'@'h' (using password: YES)\")", True),
        ("connection refused", False),
        ('relation "role" does not exist', False),
    ],
)
def test_logins_are_told_from_outages(cause: str, is_refused: bool) -> None:
    """By the words of both servers."""
    assert bool(_LOGIN_REFUSED.search(cause)) is is_refused
