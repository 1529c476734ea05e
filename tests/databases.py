"""Databases as aliases of Django's: each is started and migrated once a test process, when it is first asked for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import MariaDBServer, PostgresServer


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


def emptied(alias: str) -> str:
    """Delete all rows of ours; return the alias."""
    for model in apps.get_app_config("celery_leader").get_models():
        model.objects.using(alias).all().delete()
    return alias
