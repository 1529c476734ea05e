"""Fleets on each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

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
        with Fleet(tmp_path, broker, server.url, server=server) as fleet:
            yield fleet
    elif store == "sqlite":
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
        with Fleet(tmp_path, broker, "django-db://default", database) as fleet:
            yield fleet
    else:
        with (
            PostgresServer() as server,
            Fleet(tmp_path, broker, "django-db://default", server.django, server=server) as fleet,
        ):
            yield fleet


@pytest.fixture
def raw(broker: RedisServer) -> Iterator[redis.Redis]:
    """The Redis that is the broker, as it is."""
    with redis.Redis.from_url(broker.url) as client:
        yield client
