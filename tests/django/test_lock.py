"""What a lock in a database promises beyond the contract."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction

from celery_leader.django.models import Election, Fence
from celery_leader.election import StoredRecord
from celery_leader.exceptions import LockUnavailable, RecordConflict, RecordDamaged
from celery_leader.testing import sample_record
from tests.django.conftest import variant
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import DatabaseServer

TIMEOUT = 1.0
# What a busy machine may add to a call that ended in time.
SLACK = 0.5


@pytest.fixture
def server(server_alias: str, request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """The server of ``server_alias``; it runs again at the end."""
    server = request.getfixturevalue(f"{server_alias}_server")
    yield server
    server.resume()


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("celery-leader-db-")]


def takeover(stored: StoredRecord, holder: str = "b") -> Any:
    """The record with which *holder* takes over."""
    return replace(stored.record, holder_identity=holder, fencing_token=stored.record.fencing_token + 1)


class TestRow:
    """What is in the table."""

    def test_name_carries_the_prefix(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Two deployments share a database; without a prefix the name is the election's."""
        for prefix in ("one", "two", ""):
            backend_of(alias, prefix=prefix).lock().create(sample_record(holder_identity=prefix))
        names = Election.objects.using(alias).order_by("pk").values_list("pk", "holder_identity")
        assert dict(names) == {"default": "", "one:default": "one", "two:default": "two"}

    def test_names_that_differ_in_case_are_two(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """MySQL's default collation takes "Reports" for "reports"."""
        backend = backend_of(alias)
        backend.lock("reports").create(sample_record(holder_identity="a"))
        backend.lock("Reports").create(sample_record(holder_identity="b"))
        assert backend.lock("reports").get().record.holder_identity == "a"

    def test_deleted_and_made_again_is_another(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """A row of equal values that is not the one that was seen is not replaced."""
        lock = backend_of(alias).lock()
        old = lock.create(sample_record())
        Election.objects.using(alias).all().delete()
        lock.create(sample_record())
        with pytest.raises(RecordConflict):
            lock.update(sample_record(holder_identity="b"), old)

    def test_renewed_at_is_the_databases_time(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Whatever the holder's clock says, and in UTC."""
        long_ago = datetime(2001, 1, 1, tzinfo=timezone.utc)
        lock = backend_of(alias).lock()
        stored = lock.create(sample_record(renew_time=long_ago))
        for _ in range(2):
            renewed_at = Election.objects.using(alias).get().renewed_at
            assert abs(renewed_at - datetime.now(timezone.utc)) < timedelta(seconds=30)
            stored = lock.update(stored.record, stored)

    @pytest.mark.parametrize(
        "values",
        [{"fencing_token": -1}, {"leader_transitions": -2}, {"lease_duration": -0.5}],
        ids=lambda values: next(iter(values)),
    )
    def test_damaged_is_told_and_left_alone(
        self, alias: str, backend_of: Callable[..., Any], values: dict[str, Any]
    ) -> None:
        """Values that no elector writes are an error that names table, row and cure; nothing overwrites them."""
        lock = backend_of(alias, prefix="proj").lock()
        lock.create(sample_record())
        Election.objects.using(alias).update(**values)
        with pytest.raises(RecordDamaged, match=r"'proj:default' of table celery_leader_election.*delete"):
            lock.get()
        with pytest.raises(RecordConflict):
            lock.create(sample_record())
        assert Election.objects.using(alias).filter(**values).exists()

    @pytest.mark.postgres
    def test_not_a_number_is_damage(self, postgres_alias: str, backend_of: Callable[..., Any]) -> None:
        """PostgreSQL's columns can hold NaN."""
        Election.objects.using(postgres_alias).all().delete()
        lock = backend_of(postgres_alias).lock()
        lock.create(sample_record())
        Election.objects.using(postgres_alias).update(lease_duration=float("nan"))
        with pytest.raises(RecordDamaged, match="nan"):
            lock.get()

    def test_text_in_a_number_is_damage(self, sqlite_alias: str, backend_of: Callable[..., Any]) -> None:
        """SQLite's columns can hold anything."""
        Election.objects.using(sqlite_alias).all().delete()
        lock = backend_of(sqlite_alias).lock()
        lock.create(sample_record())
        for column in ("fencing_token", "lease_duration", "renew_time"):
            with connections[sqlite_alias].cursor() as cursor:
                cursor.execute(f"UPDATE celery_leader_election SET {column} = 'much'")
            with pytest.raises(RecordDamaged, match="celery_leader_election"):
                lock.get()


class TestFence:
    """The row that guards lock."""

    def test_follows_the_token(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """It has the token of every new term, and is not written by renewals."""
        lock = backend_of(alias, prefix="proj").lock()
        stored = lock.create(sample_record(fencing_token=5))
        assert Fence.objects.using(alias).get(pk="proj:default").token == 5
        stored = lock.update(takeover(stored), stored)
        assert Fence.objects.using(alias).get(pk="proj:default").token == 6

    def test_stays_when_a_takeover_fails(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Fence and record change together or not at all."""
        lock = backend_of(alias).lock()
        old = lock.create(sample_record(fencing_token=5))
        lock.update(old.record, old)
        with pytest.raises(RecordConflict):
            lock.update(takeover(old), old)
        assert Fence.objects.using(alias).get().token == 5

    def test_is_made_again(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """A takeover does without a fence that somebody deleted, and so does the record made anew beside one."""
        lock = backend_of(alias).lock()
        stored = lock.create(sample_record(fencing_token=5))
        Fence.objects.using(alias).all().delete()
        lock.update(takeover(stored), stored)
        Election.objects.using(alias).all().delete()
        lock.create(sample_record(fencing_token=9))
        assert Fence.objects.using(alias).get().token == 9

    def test_of_many_takeovers_one_wins(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Eight followers, each with a token of its own; the fence has the winner's, the others are told so."""
        backend = backend_of(alias)
        locks = [backend.lock() for _ in range(8)]
        seen = locks[0].create(sample_record(fencing_token=1))
        for _ in range(3):
            outcomes = self._race(locks, seen)
            winners = [outcome for outcome in outcomes if isinstance(outcome, StoredRecord)]
            losers = [outcome for outcome in outcomes if isinstance(outcome, RecordConflict)]
            assert (len(winners), len(losers)) == (1, 7), outcomes
            seen = winners[0]
            assert locks[0].get() == seen
            assert Fence.objects.using(alias).get().token == seen.record.fencing_token

    @staticmethod
    def _race(locks: list[Any], seen: StoredRecord) -> list[Any]:
        outcomes: list[Any] = []
        barrier = threading.Barrier(len(locks))

        def contend(number: int) -> None:
            token = seen.record.fencing_token + 1 + number
            record = replace(seen.record, holder_identity=f"c{number}", fencing_token=token)
            barrier.wait(10)
            try:
                outcomes.append(locks[number].update(record, seen))
            except Exception as error:  # noqa: BLE001 - the test looks at it
                outcomes.append(error)

        threads = [threading.Thread(target=contend, args=(number,)) for number in range(len(locks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return outcomes

    def test_held_by_a_guard_delays_no_renewal(self, server_alias: str, backend_of: Callable[..., Any]) -> None:
        """A guarded transaction may last; the leader renews on, and a takeover waits, but not long."""
        backend = backend_of(server_alias, timeout=TIMEOUT)
        leader, follower = backend.lock(), backend.lock()
        stored = leader.create(sample_record(fencing_token=5))
        follower.get()
        with transaction.atomic(using=server_alias):
            Fence.objects.using(server_alias).select_for_update().get(pk="default")
            for _ in range(3):
                begun = time.monotonic()
                stored = leader.update(stored.record, stored)
                assert time.monotonic() - begun < TIMEOUT / 2
            begun = time.monotonic()
            with pytest.raises(LockUnavailable, match=f"django-db://{server_alias}"):
                follower.update(takeover(stored), stored)
            assert time.monotonic() - begun < TIMEOUT + SLACK
        assert leader.get() == stored
        follower.update(takeover(stored), stored)
        assert Fence.objects.using(server_alias).get().token == 6


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
        lock = backend_of(server_alias).lock()
        stored = lock.create(sample_record())
        for _ in range(3):
            self._kill_connections(server_alias)
            stored = lock.update(stored.record, stored)
        self._kill_connections(server_alias)
        assert lock.get() == stored

    def test_a_hanging_server_hangs_nobody(
        self, server_alias: str, server: DatabaseServer, backend_of: Callable[..., Any]
    ) -> None:
        """No call takes longer than its timeout, with a connection or without; afterwards all is well."""
        backend = backend_of(server_alias, timeout=TIMEOUT)
        lock, late = backend.lock(), backend.lock()
        stored = lock.create(sample_record())
        server.pause()
        for call in (lock.get, lambda: lock.update(stored.record, stored), late.get, late.get):
            begun = time.monotonic()
            with pytest.raises(LockUnavailable, match=f"django-db://{server_alias}"):
                call()
            assert time.monotonic() - begun < TIMEOUT + SLACK
        server.resume()
        found = eventually(lock.get, ignore=LockUnavailable)
        assert found.record == stored.record
        lock.update(found.record, found)

    def test_threads_that_wait_in_vain_end(
        self, server_alias: str, server: DatabaseServer, backend_of: Callable[..., Any]
    ) -> None:
        """A server that hangs for an hour costs a handful of threads, not one a call."""
        lock = backend_of(server_alias, timeout=0.3).lock()
        lock.create(sample_record())
        server.pause()
        for _ in range(4):
            with pytest.raises(LockUnavailable):
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
            with pytest.raises(LockUnavailable, match=rf"django-db://{server_alias} gave no answer: .*(refused|111)"):
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
            with pytest.raises(LockUnavailable, match="locked"):
                lock.update(stored.record, stored)
            assert time.monotonic() - begun < TIMEOUT + SLACK
        lock.update(stored.record, stored)


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
        """Write by one lock and find by another, of the plain alias, what was written."""
        backend, plain = backend_of(name), backend_of(alias)
        backend.check()
        lock = backend.lock()
        stored = lock.create(sample_record())
        stored = lock.update(takeover(stored), stored)
        assert plain.lock().get() == stored
        renewed_at = Election.objects.using(alias).get().renewed_at
        assert abs(renewed_at - datetime.now(timezone.utc)) < timedelta(seconds=30)
        lock.close()

    @staticmethod
    def _contend(backend: Any) -> None:
        locks = [backend.lock() for _ in range(4)]
        outcomes = TestFence._race(locks, locks[0].get())
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["RecordConflict"] * 3 + ["StoredRecord"]

    def test_asks_no_router(self, alias: str, backend_of: Callable[..., Any], settings: Any) -> None:
        """A router that sends reads to a replica has no say."""
        settings.DATABASE_ROUTERS = ["tests.django.test_lock.NowhereRouter"]
        lock = backend_of(alias).lock()
        stored = lock.create(sample_record())
        assert lock.update(takeover(stored), stored) == lock.get()

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
