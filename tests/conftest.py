"""Fixtures that any test may ask for: real servers, started when first asked, one of each a test process.

A test that harms a server (kills, empties, pauses it) starts its own, or leaves this one running as it found it.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pymysql
import pytest

from tests.databases import mariadb_alias, postgres_alias, sqlite_alias  # noqa: F401  # fixtures
from tests.servers import MariaDBServer, PostgresServer, RabbitServer, RedisServer, ValkeyServer
from tests.simulation.mutants import MUTANTS

if TYPE_CHECKING:
    from collections.abc import Iterator

# Django asks for mysqlclient, which is built from C; PyMySQL stands in for it. Settings modules that are loaded by
# other processes say the same line.
pymysql.install_as_MySQLdb()

# Processes inherit which signals are ignored. Whoever starts the tests under nohup, or in the background of a script,
# ignores some; the processes that tests start would ignore them, too. Python itself ignores two, and resets them.
for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

if name := os.environ.get("CELERY_LEADER_MUTANT"):
    MUTANTS[name].apply()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that may take longest: one that begins last runs alone in the end, beside idle cores."""
    items.sort(key=_longest, reverse=True)


def _longest(item: pytest.Item) -> float:
    """Return how many seconds a test may take, if it says so."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running Redis."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A running Valkey."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL with an empty database `leader`."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """A running MariaDB with an empty database `leader`."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """A running RabbitMQ."""
    with RabbitServer() as server:
        yield server
