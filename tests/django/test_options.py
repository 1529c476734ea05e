"""How our connection differs from the application's, as the server sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from celery_leader.django.options import alias_settings, is_postgresql, own_settings, session_statement
from celery_leader.exceptions import ConfigurationError
from tests.databases import variant

if TYPE_CHECKING:
    from collections.abc import Callable


def shown(connection: Any, *names: str) -> list[Any]:
    """The session's values of server variables."""
    values = []
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"SHOW {name}" if connection.vendor == "postgresql" else f"SELECT @@SESSION.{name}")
            values.append(cursor.fetchone()[0])
    return values


@pytest.mark.postgres
def test_limits_of_a_postgres_session(postgres_alias: str, backend_of: Callable[..., Any]) -> None:
    """A lock gives up first, then the statement, then the caller; a transaction in which nothing happens ends."""
    names = ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "transaction_isolation"]
    lock = backend_of(postgres_alias, timeout=5).lock()
    ours = lock._connection.run(lambda using: shown(connections[using], *names))
    assert ours == ["3500ms", "4s", "5s", "read committed"]
    assert shown(connections[postgres_alias], *names)[:3] == ["0", "0", "0"]


@pytest.mark.postgres
def test_limits_may_be_left_to_a_pooler(postgres_alias: str, backend_of: Callable[..., Any]) -> None:
    """PgBouncer refuses connections that set them (test_pooler.py); the caller's own limit stays."""
    lock = backend_of(postgres_alias, timeout=5, options={"server_timeouts": False}).lock()
    assert lock._connection.run(lambda using: shown(connections[using], "statement_timeout")) == ["0"]
    options = own_settings(postgres_alias, timeout=5, server_timeouts=False)["OPTIONS"]
    assert "options" not in options
    assert options["connect_timeout"] == 5


@pytest.mark.mariadb
def test_limits_of_a_mariadb_session(mariadb_alias: str, backend_of: Callable[..., Any]) -> None:
    """Whole seconds, one at least; read committed whatever the alias says."""
    names = ["innodb_lock_wait_timeout", "lock_wait_timeout", "idle_transaction_timeout", "tx_isolation"]
    for timeout, expected in ((5, [4, 4, 5, "READ-COMMITTED"]), (0.5, [1, 1, 1, "READ-COMMITTED"])):
        lock = backend_of(mariadb_alias, timeout=timeout).lock()
        assert lock._connection.run(lambda using: shown(connections[using], *names)) == expected
    assert shown(connections[mariadb_alias], "innodb_lock_wait_timeout") == [50]
    with variant(mariadb_alias, OPTIONS={"isolation_level": "repeatable read"}) as name:
        lock = backend_of(name).lock()
        assert lock._connection.run(lambda using: shown(connections[using], "tx_isolation")) == ["READ-COMMITTED"]


def adapted(sqlite_alias: str, engine: str, timeout: float = 5, server_timeouts: bool = True, **options: Any) -> Any:
    """The options of our connection to a database of the kind *engine*, whose alias has *options*."""
    with variant(sqlite_alias, ENGINE=f"django.db.backends.{engine}", OPTIONS=options) as name:
        return own_settings(name, timeout=timeout, server_timeouts=server_timeouts)["OPTIONS"]


@pytest.mark.parametrize(
    ("timeout", "limits", "connect", "user"), [(5, (3500, 4000, 5000), 5, 4000), (0.001, (1, 2, 1), 1, 2)]
)
def test_limits_of_postgres(
    sqlite_alias: str, timeout: float, limits: tuple[int, int, int], connect: int, user: int
) -> None:
    """Beside the alias's own options; no pool, no other isolation, and nothing that says "without limit"."""
    lock, statement, idle = limits
    options = adapted(
        sqlite_alias, "postgresql", timeout, pool=True, isolation_level=3, sslmode="require", options="-c a=b"
    )
    assert options == {
        "sslmode": "require",
        "connect_timeout": connect,
        "tcp_user_timeout": user,
        "options": f"-c a=b -c lock_timeout={lock} -c statement_timeout={statement} "
        f"-c idle_in_transaction_session_timeout={idle} -c default_transaction_isolation=read\\ committed",
    }
    without = adapted(sqlite_alias, "postgresql", timeout, server_timeouts=False)
    assert without == {"connect_timeout": connect, "tcp_user_timeout": user}


@pytest.mark.parametrize(("timeout", "seconds"), [(5, 5), (4.5, 5), (0.2, 1)])
def test_limits_of_mysql(sqlite_alias: str, timeout: float, seconds: int) -> None:
    """Whole seconds, one at least."""
    assert adapted(sqlite_alias, "mysql", timeout, charset="utf8mb4", isolation_level="serializable") == {
        "charset": "utf8mb4",
        **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds),
        "isolation_level": "read committed",
    }


@pytest.mark.parametrize(
    ("vendor", "is_mariadb", "timeout", "statement"),
    [
        ("mysql", True, 5, (4, "idle_transaction_timeout = 5")),
        ("mysql", False, 4.5, (3, "wait_timeout = 5")),
        ("mysql", False, 0.2, (1, "wait_timeout = 1")),
        ("sqlite", False, 5, None),
    ],
)
def test_limits_of_a_session(vendor: str, is_mariadb: bool, timeout: float, statement: tuple[int, str] | None) -> None:
    """A transaction whose process stopped ends by itself, in MySQL with its session."""
    wrapper: Any = SimpleNamespace(vendor=vendor, mysql_is_mariadb=is_mariadb)
    lock, idle = statement or (0, "")
    expected = f"SET SESSION innodb_lock_wait_timeout = {lock}, SESSION lock_wait_timeout = {lock}, SESSION {idle}"
    assert session_statement(wrapper, timeout) == (expected if statement else "")


def test_a_kind_of_database_that_keeps_no_elections_is_refused(sqlite_alias: str) -> None:
    """By name, with those that do."""
    refused = pytest.raises(
        ConfigurationError, match=r"is a database of the kind unknown\. Elections can be kept in PostgreSQL"
    )
    with variant(sqlite_alias, ENGINE="django.db.backends.dummy") as name, refused:
        own_settings(name, timeout=5, server_timeouts=True)


def test_settings_that_django_refuses_are_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Django's own words."""

    class Refused(dict[str, Any]):
        def __missing__(self, alias: str) -> None:
            raise ImproperlyConfigured("You must define a 'default' database.")

    monkeypatch.setattr(connections, "settings", Refused())
    with pytest.raises(ConfigurationError, match="django-db://x can't be used: You must define a 'default' database"):
        alias_settings("x")


def test_only_postgres_notifies(sqlite_alias: str) -> None:
    """An alias that can't be used does not."""
    for engine, expected in (("postgresql", True), ("mysql", False), ("sqlite3", False), ("oracle", False)):
        with variant(sqlite_alias, ENGINE=f"django.db.backends.{engine}") as name:
            assert is_postgresql(name) is expected
    assert is_postgresql("nowhere") is False


def test_sqlite_says_at_once_that_it_will_write(sqlite_alias: str) -> None:
    """Otherwise a transaction that reads first fails when another wrote meanwhile."""
    options = own_settings(sqlite_alias, timeout=5, server_timeouts=True)["OPTIONS"]
    assert options == {"timeout": 4.0, "transaction_mode": "IMMEDIATE"}


def test_the_aliass_own_settings_stay_as_they_are(alias: str) -> None:
    """Ours are a copy."""
    before = {**connections.settings[alias], "OPTIONS": dict(connections.settings[alias]["OPTIONS"])}
    own_settings(alias, timeout=5, server_timeouts=True)
    assert connections.settings[alias] == before
