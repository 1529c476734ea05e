"""Redis and Valkey for the tests of backends: the session's, emptied, and one to harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.servers import REDIS_KINDS, RedisServer

KINDS = [pytest.param(kind, id=kind.name) for kind in REDIS_KINDS]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> RedisServer:
    """The session's Redis and its Valkey, in turn."""
    running: RedisServer = request.getfixturevalue(f"{request.param.name}_server")
    return running


@pytest.fixture
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    """A client for what other programs do, on an empty server."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture(params=KINDS)
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may harm."""
    with request.param() as server:
        yield server
