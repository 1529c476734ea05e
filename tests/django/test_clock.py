"""A database's clock is shown to people and decides nothing: here it jumps by an hour, forth and back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_leader.django.fields import DatabaseNow
from celery_leader.django.models import Election
from celery_leader.testing import sample_record
from tests.contracts.clock_contract import StoreClockContract
from tests.databases import database
from tests.servers import MariaDBServer, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import DatabaseServer

SERVERS = [
    pytest.param(PostgresServer, marks=pytest.mark.postgres, id="postgres"),
    pytest.param(MariaDBServer, marks=pytest.mark.mariadb, id="mariadb"),
]


def seen_ahead(alias: str) -> float:
    """By how many seconds the database's clock, as elections write it down, is ahead of ours."""
    (renewed_at,) = Election.objects.using(alias).values_list("renewed_at", flat=True)
    ahead: timedelta = renewed_at - datetime.now(timezone.utc)
    return ahead.total_seconds()


def assert_seen(alias: str, make_lock: Callable[..., Any], step_clock: Callable[[float], None]) -> None:
    """Fail unless a step of the clock is seen where it may be: otherwise these tests would show nothing."""
    lock = make_lock()
    stored = lock.create(sample_record())
    for seconds in (3600, -3600, 0):
        step_clock(seconds)
        stored = lock.update(stored.record, stored)
        assert abs(seen_ahead(alias) - seconds) < 60


@pytest.fixture(scope="module", params=SERVERS)
def stepped(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[tuple[str, DatabaseServer]]:
    """A server whose clock can be stepped, and the alias of its migrated database."""
    with (
        request.param(stepped_clock=True) as server,
        django_db_blocker.unblock(),
        database(f"stepped_{server.name}", server.django) as alias,
    ):
        yield alias, server


class TestServersClock(StoreClockContract):
    """DjangoLock in a server."""

    @pytest.fixture(autouse=True)
    def _backend(self, stepped: tuple[str, DatabaseServer], backend_of: Callable[..., Any]) -> Iterator[None]:
        self.alias, self.server = stepped
        Election.objects.using(self.alias).all().delete()
        self.backend = backend_of(self.alias)
        yield
        self.step_clock(0)

    def make_lock(self, election: str = "default") -> Any:
        return self.backend.lock(election)

    def step_clock(self, seconds: float) -> None:
        self.server.step_clock(seconds)

    def test_a_step_is_seen(self) -> None:
        """In what is shown."""
        assert_seen(self.alias, self.make_lock, self.step_clock)


class TestSqlitesClock(StoreClockContract):
    """DjangoLock in SQLite, whose clock is the process's: here, what DatabaseNow makes of it."""

    @pytest.fixture(autouse=True)
    def _backend(self, sqlite_alias: str, backend_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.alias, self.monkeypatch = sqlite_alias, monkeypatch
        Election.objects.using(self.alias).all().delete()
        self.backend = backend_of(self.alias)

    def make_lock(self, election: str = "default") -> Any:
        return self.backend.lock(election)

    def step_clock(self, seconds: float) -> None:
        template = f"STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'NOW', '{seconds:+g} seconds')"

        def stepped(self: DatabaseNow, compiler: Any, connection: Any, **context: Any) -> Any:
            return self.as_sql(compiler, connection, template=template, **context)

        self.monkeypatch.setattr(DatabaseNow, "as_sqlite", stepped)

    def test_a_step_is_seen(self) -> None:
        """In what is shown."""
        assert_seen(self.alias, self.make_lock, self.step_clock)
