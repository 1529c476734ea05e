"""Databases for the tests of the Django app: each is migrated once a test process and empty at a test's start."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.db import connections

from celery_leader.backends import open_backend
from celery_leader.django.models import Election, Fence, LedgerTerm, PeriodicRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_leader.django.backend import DjangoBackend
    from tests.servers import MariaDBServer, PostgresServer

POSTGRES = pytest.param("postgres_alias", marks=pytest.mark.postgres, id="postgres")
MARIADB = pytest.param("mariadb_alias", marks=pytest.mark.mariadb, id="mariadb")
SQLITE = pytest.param("sqlite_alias", id="sqlite")

#: For tests that start their own: the fixture of a server class by the kind of the database.
EVERY_DATABASE = [SQLITE, POSTGRES, MARIADB]


@pytest.fixture(autouse=True)
def _databases_allowed(django_db_blocker: Any) -> Iterator[None]:
    """Let these tests use databases without pytest-django's transactions, which hide rows from other connections."""
    with django_db_blocker.unblock():
        yield


@contextmanager
def database(alias: str, entry: dict[str, Any], *, migrate: bool = True) -> Iterator[str]:
    """Add *alias* to Django's databases, migrated; take it away at the end."""
    complete = connections.configure_settings({"default": connections.settings["default"], alias: dict(entry)})[alias]
    connections.settings[alias] = complete
    try:
        if migrate:
            call_command("migrate", database=alias, verbosity=0)
        yield alias
    finally:
        if hasattr(connections._connections, alias):
            connections[alias].close()
            del connections[alias]
        del connections.settings[alias]


@contextmanager
def variant(alias: str, **changes: Any) -> Iterator[str]:
    """Add another alias of the same database, whose settings differ by *changes*; OPTIONS are merged."""
    entry = dict(connections.settings[alias])
    options = {**entry["OPTIONS"], **changes.pop("OPTIONS", {})}
    with database(f"{alias}_variant", {**entry, **changes, "OPTIONS": options}, migrate=False) as name:
        yield name


@pytest.fixture(scope="session")
def sqlite_alias(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Iterator[str]:
    """An SQLite file."""
    path = tmp_path_factory.mktemp("sqlite") / "db.sqlite3"
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    with django_db_blocker.unblock(), database("sqlite", entry) as alias:
        yield alias


@pytest.fixture(scope="session")
def postgres_alias(postgres_server: PostgresServer, django_db_blocker: Any) -> Iterator[str]:
    """A PostgreSQL database."""
    entry = postgres_server.create_database("leader_django")
    with django_db_blocker.unblock(), database("postgres", entry) as alias:
        yield alias


@pytest.fixture(scope="session")
def mariadb_alias(mariadb_server: MariaDBServer, django_db_blocker: Any) -> Iterator[str]:
    """A MariaDB database."""
    with django_db_blocker.unblock(), database("mariadb", mariadb_server.create_database("leader_django")) as alias:
        yield alias


@pytest.fixture(params=EVERY_DATABASE)
def alias(request: pytest.FixtureRequest) -> str:
    """Each database in turn, empty."""
    return _emptied(request.getfixturevalue(request.param))


@pytest.fixture(params=[POSTGRES, MARIADB])
def server_alias(request: pytest.FixtureRequest) -> str:
    """Each database that is a server, empty."""
    return _emptied(request.getfixturevalue(request.param))


def _emptied(alias: str) -> str:
    for model in (Election, Fence, LedgerTerm, PeriodicRun):
        model.objects.using(alias).all().delete()
    return alias


@pytest.fixture
def backend_of() -> Iterator[Callable[..., DjangoBackend]]:
    """Make a backend on an alias; the connections of all its locks and ledgers are closed at the end."""
    with ExitStack() as stack:

        def make(alias: str, **settings: Any) -> Any:
            backend = open_backend(f"django-db://{alias}", **settings)
            for kind in ("lock", "ledger"):
                setattr(backend, kind, _closing(getattr(backend, kind), stack))
            return backend

        yield make


def _closing(make: Callable[[str], Any], stack: ExitStack) -> Callable[[str], Any]:
    def make_and_remember(election: str = "default") -> Any:
        made = make(election)
        stack.callback(made.close)
        return made

    return make_and_remember
