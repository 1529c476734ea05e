"""Fifty candidates: one leader, no more requests than allowed, and no herd when the lease is vacant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_leader.backends import open_backend
from tests.crowd import Crowd, count, most_at_once, next_term, now, pause
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

CANDIDATES = 50
LEASE, DEADLINE, RETRY = 3.0, 2.0, 0.5
# Seconds by which a busy machine may delay a thread that is woken, and with it a hand-over.
SLACK = 1.0


@pytest.fixture
def crowd(request: pytest.FixtureRequest) -> Iterator[Crowd]:
    """Fifty candidates on the store that the test is parametrised with."""
    backend: Any = request.getfixturevalue(f"{request.param}_backend")
    locks = [backend.lock("crowd") for _ in range(CANDIDATES)]
    crowd = Crowd(locks, lease_duration=LEASE, renew_deadline=DEADLINE, retry_period=RETRY)
    crowd.start()
    yield crowd
    crowd.stop()


@pytest.fixture
def redis_backend(redis_server: Any) -> Any:
    """A Redis."""
    return open_backend(redis_server.url, prefix="crowd")


@pytest.fixture
def postgres_backend(postgres_server: Any, django_db_blocker: Any) -> Iterator[Any]:
    """A PostgreSQL database of its own."""
    from django.db import connections

    from tests.databases import database

    with django_db_blocker.unblock(), database("crowd", postgres_server.create_database("crowd")) as alias:
        connections[alias].close()
        yield open_backend(f"django-db://{alias}")


@pytest.mark.parametrize(
    "crowd",
    [
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("postgres", marks=pytest.mark.postgres),
    ],
    indirect=True,
)
def test_a_crowd_is_no_herd(crowd: Crowd) -> None:
    """At the start, after a release and after a silent death, by the candidates' own count of requests."""
    eventually(lambda: len(crowd.know()) == 1 and "" not in crowd.know(), 30, what="all know one leader")

    begun = now()
    pause(3)
    steady = count(crowd.requests, begun, now()) / (now() - begun)
    assert 0.4 * CANDIDATES / RETRY <= steady <= CANDIDATES / RETRY

    released = crowd.stop_leader()
    led = eventually(lambda: next_term(crowd.trusts, released), 10)
    assert led - released < SLACK
    eventually(lambda: now() > released + 1)
    assert count(crowd.requests, released, released + 1) <= 1.5 * steady + CANDIDATES

    died = crowd.stop_leader(silently=True)
    led = eventually(lambda: next_term(crowd.trusts, died), 20)
    assert LEASE - RETRY - SLACK < led - died < LEASE + 2.2 * RETRY + SLACK
    eventually(lambda: now() > led + 1)
    assert count(crowd.requests, led, led + 1) <= 1.5 * steady + CANDIDATES
    assert most_at_once(crowd.trusts) == 1
