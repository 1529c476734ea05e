"""On PostgreSQL followers are told of a change of holder; whatever is wrong with the telling, they poll."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from django.db import connections

from celery_leader.backends import open_backend
from celery_leader.django.models import Election, Fence
from celery_leader.django.notifications import _take, channel_of
from celery_leader.exceptions import ConfigurationError, RecordConflict, StoreUnavailable
from celery_leader.testing import sample_record
from tests.databases import variant
from tests.django.conftest import takeover
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_leader.django.lock import DjangoLock
    from celery_leader.election import StoredRecord
    from tests.servers import PostgresServer

pytestmark = pytest.mark.postgres

CHANNEL = "celery-leader:default"
LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %%' AND state = 'idle' AND datname = current_database()"
)


@pytest.fixture
def pg(postgres_alias: str) -> str:
    """The alias of a PostgreSQL database without elections, and without the listeners of earlier tests."""
    Election.objects.using(postgres_alias).all().delete()
    Fence.objects.using(postgres_alias).all().delete()
    eventually(lambda: not sessions(postgres_alias))
    return postgres_alias


@pytest.fixture
def raw(pg: str, postgres_server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """A client that hears all that is told of the election ``default``."""
    name = connections.settings[pg]["NAME"]
    address = {"host": "127.0.0.1", "port": postgres_server.port, "user": "postgres"}
    with psycopg.connect(dbname=name, autocommit=True, **address) as connection:
        connection.execute(f'LISTEN "{CHANNEL}"')
        yield connection


def heard(connection: psycopg.Connection[Any], count: int) -> list[str]:
    """The next *count* holders that were told, and those of the next tenth of a second."""
    told: list[str] = []
    eventually(lambda: told.extend(n.payload for n in connection.notifies(timeout=0.1)) or len(told) >= count)
    return told + [notice.payload for notice in connection.notifies(timeout=0.1)]


def sessions(alias: str) -> list[int]:
    """The server's processes that listen for somebody; not the test's own."""
    with connections[alias].cursor() as cursor:
        cursor.execute(LISTENERS)
        return [pid for (pid,) in cursor.fetchall()]


def listening_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "celery-leader-listener"]


def released(stored: StoredRecord) -> Any:
    return replace(stored.record, holder_identity="")


def follow(alias: str, lock: DjangoLock) -> None:
    """Have *lock* look and listen, as a follower does."""
    lock.get()
    lock.wait(0.01)
    eventually(lambda: sessions(alias))


def waits(lock: DjangoLock) -> tuple[threading.Thread, list[float]]:
    """Let *lock* wait for a minute on a thread; when it came back stands in the list."""
    ended: list[float] = []

    def wait() -> None:
        lock.wait(60)
        ended.append(time.monotonic())

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, ended


def test_a_notification_takes_milliseconds(pg: str, backend_of: Callable[..., Any]) -> None:
    """A release ends a follower's sleep long before its poll would."""
    leader, follower = backend_of(pg).lock(), backend_of(pg).lock()
    stored = leader.create(sample_record())
    follow(pg, follower)
    thread, ended = waits(follower)
    begun = time.monotonic()
    leader.update(released(stored), stored)
    thread.join(10)
    assert ended[0] - begun < 1


def test_only_changes_of_holder_are_told(pg: str, raw: psycopg.Connection[Any], backend_of: Callable[..., Any]) -> None:
    """Creation, release and takeover, with who holds it now; no renewal, and nothing that was not stored."""
    lock = backend_of(pg).lock()
    old = lock.create(sample_record(holder_identity="a"))
    stored = lock.update(old.record, old)
    with pytest.raises(RecordConflict):
        lock.update(takeover(old), old)
    with pytest.raises(RecordConflict):
        lock.update(released(old), old)
    with pytest.raises(RecordConflict):
        lock.create(sample_record(holder_identity="c"))
    stored = lock.update(released(stored), stored)
    lock.update(takeover(stored, "b"), stored)
    assert heard(raw, 3) == ["a", "", "b"]


def test_who_knows_already_is_not_woken(pg: str, backend_of: Callable[..., Any]) -> None:
    """News that came while the record was read would only cost a second look: one more request a candidate."""
    leader, follower = backend_of(pg).lock(), backend_of(pg).lock()
    stored = leader.create(sample_record())
    follow(pg, follower)
    follower._notifications.seen("b")
    thread, ended = waits(follower)
    stored = leader.update(takeover(stored, "b"), stored)
    follower._notifications.heard("b")
    thread.join(0.3)
    assert not ended
    leader.update(released(stored), stored)
    thread.join(10)
    assert ended


def test_listening_goes_on_after_a_cut(pg: str, backend_of: Callable[..., Any]) -> None:
    """An operator, a fail-over or a proxy ends the session; another is made, and hears."""
    leader, follower = backend_of(pg).lock(), backend_of(pg).lock()
    stored = leader.create(sample_record())
    follow(pg, follower)
    first = sessions(pg)
    with connections[pg].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", first)
    eventually(lambda: sessions(pg) not in ([], first), what="another session that listens")
    thread, ended = waits(follower)
    leader.update(released(stored), stored)
    thread.join(10)
    assert ended


def test_a_listener_ends_with_its_lock(pg: str, backend_of: Callable[..., Any]) -> None:
    """Its thread and its session, within moments; a later wait listens again."""
    lock = backend_of(pg).lock()
    lock.create(sample_record())
    for _ in range(2):
        follow(pg, lock)
        assert len(sessions(pg)) == len(listening_threads()) == 1
        lock.close()
        eventually(lambda: not listening_threads(), 1, what="the listener's thread ended")
        eventually(lambda: not sessions(pg), 3)


def test_a_hanging_server_holds_nobody(
    pg: str, postgres_server: PostgresServer, backend_of: Callable[..., Any]
) -> None:
    """Neither a wait nor the end of one that listens, nor of one that is only about to."""
    backend = backend_of(pg, timeout=3)
    listening, late = backend.lock(), backend.lock()
    listening.create(sample_record())
    follow(pg, listening)
    postgres_server.pause()
    try:
        begun = time.monotonic()
        for lock in (listening, late):
            lock.wait(0.1)
        assert time.monotonic() - begun < 1
        listening.close()
        late.close()
        eventually(lambda: not listening_threads(), 15)
    finally:
        postgres_server.resume()


def test_a_database_that_admits_no_listener_is_polled(
    pg: str, postgres_server: PostgresServer, backend_of: Callable[..., Any]
) -> None:
    """A limit of connections, a pooler, a standby: the lock itself goes on."""
    postgres_server.execute(
        "CREATE ROLE narrow LOGIN CONNECTION LIMIT 1 IN ROLE pg_read_all_data, pg_write_all_data", "leader_django"
    )
    with variant(pg, USER="narrow") as alias:
        lock = backend_of(alias).lock()
        stored = lock.create(sample_record())
        lock.wait(0.01)
        begun = time.monotonic()
        lock.wait(0.2)
        assert time.monotonic() - begun >= 0.2
        stored = lock.update(released(stored), stored)
        assert lock.get() == stored
        assert not sessions(pg)


def test_a_database_that_refuses_to_tell_elects_all_the_same(pg: str, backend_of: Callable[..., Any]) -> None:
    """Some revoke ``pg_notify``; its queue may be full: the second attempt does without."""
    with connections[pg].cursor() as cursor:
        cursor.execute("CREATE SCHEMA broken")
        cursor.execute(
            "CREATE FUNCTION broken.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'too many notifications'; END $$"
        )
    try:
        with variant(pg, OPTIONS={"options": "-c search_path=broken,pg_catalog,public"}) as alias:
            lock = backend_of(alias).lock()
            with pytest.raises(StoreUnavailable, match="too many notifications"):
                lock.create(sample_record())
            stored = lock.create(sample_record())
            stored = lock.update(stored.record, stored)
            with pytest.raises(StoreUnavailable, match="too many notifications"):
                lock.update(released(stored), stored)
            assert lock.get() == stored
            stored = lock.update(released(stored), stored)
            assert lock.get() == stored
    finally:
        with connections[pg].cursor() as cursor:
            cursor.execute("DROP SCHEMA broken CASCADE")


def test_telling_and_hearing_can_be_turned_off(
    pg: str, raw: psycopg.Connection[Any], backend_of: Callable[..., Any]
) -> None:
    """For a pooler that knows no LISTEN, or where each connection counts."""
    backend = backend_of(pg, options={"listen": False})
    lock = backend.lock()
    stored = lock.create(sample_record())
    begun = time.monotonic()
    lock.wait(0.2)
    assert time.monotonic() - begun >= 0.2
    lock.update(released(stored), stored)
    assert not listening_threads()
    assert list(raw.notifies(timeout=0.1)) == []


def test_an_option_that_is_no_flag_is_refused() -> None:
    """ "no" is true in Python."""
    with pytest.raises(ConfigurationError, match=r"'listen'\] must be True or False, got 'no'"):
        open_backend("django-db://default", options={"listen": "no"})


@pytest.mark.parametrize("name", ["x" * 255, "ж" * 60, "a b", 'quo"ted', "semi;colon", "%s"])
def test_any_name_has_a_channel(pg: str, backend_of: Callable[..., Any], name: str) -> None:
    """However long it is and whatever stands in it: PostgreSQL admits 63 bytes."""
    assert len(channel_of(name).encode()) <= 63
    assert channel_of(name) != channel_of(name[:-1])
    leader, follower = backend_of(pg).lock(name), backend_of(pg).lock(name)
    stored = leader.create(sample_record())
    follow(pg, follower)
    thread, ended = waits(follower)
    leader.update(released(stored), stored)
    thread.join(10)
    assert ended


def test_a_short_name_can_be_read_in_its_channel() -> None:
    """So that an operator can listen, too."""
    assert channel_of("proj:default") == "celery-leader:proj:default"


def test_psycopg_2_is_heard() -> None:
    """It keeps a list of what it has read, which is ours to empty."""
    polls: list[int] = []
    payloads = [SimpleNamespace(payload=holder) for holder in ("a", "")]
    connection = SimpleNamespace(poll=lambda: polls.append(1), notifies=payloads)
    assert _take(connection) == ["a", ""]
    assert _take(connection) == []
    assert len(polls) == 2


def test_other_databases_are_polled(sqlite_alias: str, backend_of: Callable[..., Any]) -> None:
    """Without a thread."""
    lock = backend_of(sqlite_alias).lock()
    begun = time.monotonic()
    lock.wait(0.1)
    assert time.monotonic() - begun >= 0.1
    assert not listening_threads()
