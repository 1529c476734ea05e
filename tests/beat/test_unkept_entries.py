"""Entries whose names a store can't keep, on real stores: they cost themselves, and no other entry."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.beat.machines import EVERY_TEN, Machines
from tests.databases import emptied

#: By store, names that it can't keep. SQLite keeps any length, but ours is one for all databases.
LONG, NUL, HALF = "n" * 501, "with\0NUL", "half \ud800 a pair"
STORES = [
    pytest.param(("redis", [HALF]), id="redis", marks=pytest.mark.redis),
    pytest.param(("sqlite_alias", [LONG, HALF]), id="sqlite"),
    pytest.param(("postgres_alias", [LONG, NUL, HALF]), id="postgres", marks=pytest.mark.postgres),
    pytest.param(("mariadb_alias", [LONG, HALF]), id="mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture(params=STORES)
def names(request: pytest.FixtureRequest, machines: Machines, django_db_blocker: Any) -> Iterator[list[str]]:
    """Let the machines use each store in turn; the names that it can't keep."""
    kind, names = request.param
    with django_db_blocker.unblock():
        if kind == "redis":
            machines.store = request.getfixturevalue("redis_server").url
            with redis.Redis.from_url(machines.store) as client:
                client.flushall()
        else:
            machines.store = f"django-db://{emptied(request.getfixturevalue(kind))}"
        yield names
        for machine in machines.started:
            machine.scheduler.close()
            machine.campaign.stop()


def test_names_that_cannot_be_kept_cost_no_other_entry_its_claim(
    machines: Machines, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The others are claimed, and the next leader goes on from there. Who is left out is named, with the cure."""
    bad = {name: {"task": "t.bad", "schedule": 10.0} for name in names}
    machines.schedule = {**bad, **EVERY_TEN, **{f"other {n}": {"task": "t.other", "schedule": 10.0} for n in range(7)}}
    first = machines.leader()
    machines.wall.advance(10)
    first.tick_until_idle()
    assert sorted(each["task"] for each in machines.sent()) == ["t.other"] * 7 + ["t.ten"]
    (told,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert f"{len(names)} of this schedule's entries" in told
    assert "Rename" in told
    assert told.isprintable()
    assert len(told) < 1200
    claims = first.campaign.backend.ledger("default").open(2**53 - 1)
    assert {name: claim.sent for name, claim in claims.items()} == dict.fromkeys(
        ["ten", *(f"other {n}" for n in range(7))], True
    )


def test_entries_that_are_left_out_are_named_again(
    machines: Machines, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Once a minute, for as long as nothing is done about it."""
    machines.schedule = {names[0]: {"task": "t.bad", "schedule": 10.0}, **EVERY_TEN}
    first = machines.leader()
    claims = first.scheduler._leading.outbox.claims  # type: ignore[union-attr]
    now = claims._now()
    for later, times in ((1.0, 1), (59.0, 1), (61.0, 2), (62.0, 2), (122.0, 3)):
        claims._now = lambda later=later: now + later
        claims.remind()
        assert sum(each.levelno >= logging.ERROR for each in caplog.records) == times
