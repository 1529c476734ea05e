"""How our connection differs from the application's, as the server sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections

from celery_leader.django.options import own_settings
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


def test_sqlite_says_at_once_that_it_will_write(sqlite_alias: str) -> None:
    """Otherwise a transaction that reads first fails when another wrote meanwhile."""
    options = own_settings(sqlite_alias, timeout=5, server_timeouts=True)["OPTIONS"]
    assert options == {"timeout": 4.0, "transaction_mode": "IMMEDIATE"}


def test_the_aliass_own_settings_stay_as_they_are(alias: str) -> None:
    """Ours are a copy."""
    before = {**connections.settings[alias], "OPTIONS": dict(connections.settings[alias]["OPTIONS"])}
    own_settings(alias, timeout=5, server_timeouts=True)
    assert connections.settings[alias] == before
