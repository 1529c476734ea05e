"""Connections that die, and servers that hang: no call of a lock in a database takes longer than it may."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction

from celery_leader.django.models import Election, Fence
from celery_leader.exceptions import StoreUnavailable
from celery_leader.testing import sample_claim, sample_record
from tests.django.conftest import own_threads
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import DatabaseServer

TIMEOUT = 0.8
# What a busy machine may add to a call that ended in time.
SLACK = 0.5


@pytest.fixture
def server(server_alias: str, request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """The server of ``server_alias``; it runs again at the end."""
    server = request.getfixturevalue(f"{server_alias}_server")
    yield server
    server.resume()


class TestTrouble:
    """Connections that die, and servers that hang."""

    @staticmethod
    def _kill_connections(alias: str) -> None:
        """End every connection of the database but this test's own."""
        with connections[alias].cursor() as cursor:
            if connections[alias].vendor == "postgresql":
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid != pg_backend_pid()"
                )
                assert cursor.fetchall()
            else:
                cursor.execute(
                    "SELECT id FROM information_schema.processlist WHERE id != connection_id() AND db = database()"
                )
                ids = cursor.fetchall()
                assert ids
                for (number,) in ids:
                    cursor.execute(f"KILL {number}")

    def test_a_killed_connection_costs_nothing(self, server_alias: str, backend_of: Callable[..., Any]) -> None:
        """It is found dead before the next call, which uses another."""
        backend = backend_of(server_alias)
        lock, ledger = backend.lock(), backend.ledger()
        stored = lock.create(sample_record())
        ledger.open(1)
        for second in range(3):
            self._kill_connections(server_alias)
            stored = lock.update(stored.record, stored)
            assert list(ledger.claim(1, [sample_claim(second=second)])) == [True]
        self._kill_connections(server_alias)
        assert lock.get() == stored
        ledger.confirm(1, [sample_claim(second=2)])
        assert ledger.open(1)["tick"].sent

    def test_a_hanging_server_hangs_nobody(
        self, server_alias: str, server: DatabaseServer, backend_of: Callable[..., Any]
    ) -> None:
        """No call takes longer than its timeout, with a connection or without; afterwards all is well."""
        backend = backend_of(server_alias, timeout=TIMEOUT)
        lock, late, ledger, late_ledger = backend.lock(), backend.lock(), backend.ledger(), backend.ledger()
        stored = lock.create(sample_record())
        ledger.open(1)
        server.pause()
        of_lock = (lock.get, lambda: lock.update(stored.record, stored), late.get, late.get, backend.check)
        of_ledger = (lambda: ledger.claim(1, [sample_claim()]), lambda: late_ledger.open(1))
        for call in (*of_lock, *of_ledger):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match=f"django-db://{server_alias}"):
                call()
            assert time.monotonic() - begun < TIMEOUT + SLACK
        server.resume()
        found = eventually(lock.get, ignore=StoreUnavailable)
        assert found.record == stored.record
        lock.update(found.record, found)
        assert dict(eventually(lambda: [ledger.open(1)], ignore=StoreUnavailable)[0]) == {}

    def test_threads_that_wait_in_vain_end(
        self, server_alias: str, server: DatabaseServer, backend_of: Callable[..., Any]
    ) -> None:
        """A server that hangs for an hour costs a handful of threads, not one a call."""
        lock = backend_of(server_alias, timeout=0.3).lock()
        lock.create(sample_record())
        server.pause()
        for _ in range(4):
            with pytest.raises(StoreUnavailable):
                lock.get()
        eventually(lambda: not own_threads(), 10, what="the threads ended, though the server still hangs")

    def test_a_server_that_is_down_is_no_answer(
        self, server_alias: str, server: DatabaseServer, backend_of: Callable[..., Any]
    ) -> None:
        """The error tells the alias and the cause; when the server is back, the same lock goes on."""
        lock = backend_of(server_alias, timeout=TIMEOUT).lock()
        stored = lock.create(sample_record())
        connections[server_alias].close()
        server.kill()
        try:
            with pytest.raises(StoreUnavailable, match=rf"django-db://{server_alias} gave no answer: .*(refused|111)"):
                lock.get()
        finally:
            server.start()
        assert lock.get() == stored

    def test_a_locked_file_is_no_answer(self, sqlite_alias: str, backend_of: Callable[..., Any]) -> None:
        """A writer that keeps an SQLite file for itself makes others wait, but not long."""
        Election.objects.using(sqlite_alias).all().delete()
        lock = backend_of(sqlite_alias, timeout=TIMEOUT).lock()
        stored = lock.create(sample_record())
        with transaction.atomic(using=sqlite_alias):
            Fence.objects.using(sqlite_alias).update(token=1)
            assert lock.get() == stored
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match="locked"):
                lock.update(stored.record, stored)
            assert time.monotonic() - begun < TIMEOUT + SLACK
        lock.update(stored.record, stored)
