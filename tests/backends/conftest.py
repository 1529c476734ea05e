"""Redis for the tests of backends: the session's, emptied, and one to harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.servers import RedisServer


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client for what other programs do, on an empty server."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that the test may harm."""
    with RedisServer() as server:
        yield server
