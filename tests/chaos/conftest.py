"""Fleets on each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.fleet import Fleet
from tests.servers import PostgresServer, RabbitServer, RedisServer


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[RedisServer | RabbitServer]:
    """The broker of one test: a Redis, or the class that the test is parametrised with."""
    with getattr(request, "param", RedisServer)() as server:
        yield server


@pytest.fixture
def redis_store() -> Iterator[RedisServer]:
    """A Redis for the election alone, to be harmed."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path, broker: RedisServer | RabbitServer) -> Iterator[Fleet]:
    """No worker yet, on the store that the test is parametrised with (Redis when it says nothing)."""
    store = getattr(request, "param", "redis")
    if store == "redis":
        server = request.getfixturevalue("redis_store")
        yield from _closing(Fleet(tmp_path, broker, server.url, server=server))
    elif store == "sqlite":
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
        yield from _closing(Fleet(tmp_path, broker, "django-db://default", database))
    else:
        with PostgresServer() as server:
            yield from _closing(Fleet(tmp_path, broker, "django-db://default", server.django, server=server))


def _closing(fleet: Fleet) -> Iterator[Fleet]:
    try:
        yield fleet
    finally:
        fleet.close()
