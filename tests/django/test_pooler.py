"""Elections in a PostgreSQL behind a PgBouncer in transaction mode, set up as docs/reference/settings.md says."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction

from celery_leader.django.models import Fence
from celery_leader.exceptions import StoreUnavailable
from celery_leader.testing import LedgerContract, LockContract, sample_record
from tests.contracts.network_contract import NetworkedLedgerContract, NetworkedLockContract
from tests.contracts.once_contract import OnceStoreContract
from tests.databases import database, emptied
from tests.django.conftest import takeover
from tests.django.made import PREFIX, OnAlias, OverNetwork
from tests.servers import PgBouncerServer
from tests.servers.pgbouncer import SESSIONS
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_leader.django.once import DjangoOnceStore
    from tests.servers import PostgresServer

pytestmark = pytest.mark.postgres

OPTIONS = {"server_timeouts": False, "listen": False}


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresServer) -> Iterator[PgBouncerServer]:
    """A PgBouncer before the session's PostgreSQL."""
    with PgBouncerServer(postgres_server) as server:
        yield server


@pytest.fixture
def alias(pooler: PgBouncerServer, postgres_alias: str) -> Iterator[str]:
    """The PostgreSQL database, empty, by way of the pooler."""
    with by_way_of(pooler, emptied(postgres_alias)) as name:
        yield name


@contextmanager
def by_way_of(pooler: PgBouncerServer, alias: str, **changes: Any) -> Iterator[str]:
    """Add an alias of the database of *alias*, whose settings differ by *changes*, too."""
    entry = pooler.django_for(connections.settings[alias]["NAME"])
    with database("pooled", {**entry, **changes}, migrate=False) as name:
        yield name


def shown(using: str, *names: str) -> list[str]:
    """What the session that serves *using* at this moment says of itself."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}")
        return list(cursor.fetchone())


class Pooled(OnAlias):
    """As everybody behind a pooler is told to."""

    options = OPTIONS


class TestPooledLock(Pooled, LockContract):
    """DjangoLock."""

    made_kind = "lock"
    make_lock = Pooled.make


class TestPooledLedger(Pooled, LedgerContract):
    """DjangoLedger."""

    made_kind = "ledger"
    make_ledger = Pooled.make


class PooledOverNetwork(OverNetwork):
    """The network between us and the pooler."""

    options = OPTIONS

    @pytest.fixture
    def server_alias(self, alias: str) -> str:
        """The only one."""
        return alias


class TestPooledLockOverNetwork(PooledOverNetwork, NetworkedLockContract):
    """DjangoLock."""

    made_kind = "lock"
    make_lock, make_lock_through = PooledOverNetwork.make, PooledOverNetwork.make_through


class TestPooledLedgerOverNetwork(PooledOverNetwork, NetworkedLedgerContract):
    """DjangoLedger."""

    made_kind = "ledger"
    make_ledger, make_ledger_through = PooledOverNetwork.make, PooledOverNetwork.make_through


class TestPooledOnceStore(OnceStoreContract):
    """DjangoOnceStore."""

    @pytest.fixture(autouse=True)
    def _backend(self, alias: str, backend_of: Callable[..., Any]) -> None:
        self.backend = backend_of(alias, prefix=PREFIX, options=OPTIONS)

    def make_once_store(self) -> DjangoOnceStore:
        return self.backend.once_store()


def test_many_locks_share_few_sessions(alias: str, backend_of: Callable[..., Any]) -> None:
    """That is what a pooler is for; each lock has a connection to it."""
    backend = backend_of(alias, options=OPTIONS)
    stored = backend.lock().create(sample_record())
    locks = [backend.lock() for _ in range(20)]
    assert {lock.get() for lock in locks} == {stored}
    assert len({lock._connection.run(session) for lock in locks}) <= SESSIONS


def session(using: str) -> int:
    """The server's process that serves *using* at this moment."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def test_nothing_of_ours_stays_in_a_session(
    postgres_server: PostgresServer, postgres_alias: str, backend_of: Callable[..., Any]
) -> None:
    """The application's next request may get the session that we had, and the other way round."""
    names = ["TimeZone", "statement_timeout", "lock_timeout", "default_transaction_isolation"]
    with (
        PgBouncerServer(postgres_server, {"default_pool_size": "1"}) as narrow,
        by_way_of(narrow, postgres_alias, TIME_ZONE="Asia/Kolkata") as alias,
    ):
        lock = backend_of(alias, options=OPTIONS).lock()
        before = shown(alias, *names)
        assert before[0] == "Asia/Kolkata"
        for _ in range(2):
            assert lock._connection.run(lambda using: shown(using, *names)) == ["UTC", *before[1:]]
            assert shown(alias, *names) == before


def test_a_pooler_that_refuses_limits_is_told_of(alias: str, backend_of: Callable[..., Any]) -> None:
    """As PgBouncer does from the start; the message names the cure."""
    lock = backend_of(alias, options={"listen": False}).lock()
    with pytest.raises(StoreUnavailable, match=r"unsupported startup parameter.*\"server_timeouts\": False"):
        lock.get()


def test_a_pooler_may_ignore_limits(
    postgres_server: PostgresServer, postgres_alias: str, backend_of: Callable[..., Any]
) -> None:
    """Then they hold nowhere, and no option is needed."""
    with (
        PgBouncerServer(postgres_server, {"ignore_startup_parameters": "options"}) as lenient,
        by_way_of(lenient, emptied(postgres_alias)) as alias,
    ):
        lock = backend_of(alias, options={"listen": False}).lock()
        assert lock.create(sample_record()) == lock.get()
        assert lock._connection.run(lambda using: shown(using, "statement_timeout")) == ["0"]


def test_a_pooler_can_end_a_transaction_that_stands_still(
    postgres_server: PostgresServer, postgres_alias: str, backend_of: Callable[..., Any]
) -> None:
    """A process that was stopped while it had a row locked keeps nobody from leading for longer than that."""
    with (
        PgBouncerServer(postgres_server, {"idle_transaction_timeout": "1"}) as strict,
        by_way_of(strict, emptied(postgres_alias)) as alias,
    ):
        lock = backend_of(alias, options=OPTIONS, timeout=0.5).lock()
        stored = lock.create(sample_record())
        transaction.set_autocommit(False, using=alias)
        assert Fence.objects.using(alias).select_for_update().get()
        with pytest.raises(StoreUnavailable, match="within"):
            lock.update(takeover(stored), stored)
        eventually(lambda: lock.update(takeover(stored), stored), ignore=StoreUnavailable)


def test_listening_through_it_brings_no_news_and_no_complaints(
    alias: str, backend_of: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Who did not turn it off polls; LISTEN is accepted, and the session that heard it goes to somebody else."""
    caplog.set_level(logging.INFO, "celery_leader")
    backend = backend_of(alias, options={"server_timeouts": False})
    leader, follower = backend.lock(), backend.lock()
    stored = leader.create(sample_record())
    follower.get()
    follower.wait(0.5)
    leader.update(replace(stored.record, holder_identity=""), stored)
    begun = time.monotonic()
    follower.wait(0.5)
    assert time.monotonic() - begun >= 0.5
    assert follower.get().record.holder_identity == ""
    assert caplog.records == []
