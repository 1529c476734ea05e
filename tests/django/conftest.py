"""Each of the databases in turn, empty at a test's start, for the tests of the Django app."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from celery_leader.backends import open_backend
from tests.databases import emptied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_leader.django.backend import DjangoBackend
    from celery_leader.election import StoredRecord

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


@pytest.fixture(params=EVERY_DATABASE)
def alias(request: pytest.FixtureRequest) -> str:
    """Each database in turn, empty."""
    return emptied(request.getfixturevalue(request.param))


@pytest.fixture(params=[POSTGRES, MARIADB])
def server_alias(request: pytest.FixtureRequest) -> str:
    """Each database that is a server, empty."""
    return emptied(request.getfixturevalue(request.param))


@pytest.fixture
def backend_of() -> Iterator[Callable[..., DjangoBackend]]:
    """Make a backend on an alias; the connections of all its locks and ledgers are closed at the end."""
    with ExitStack() as stack:

        def make(alias: str, **settings: Any) -> Any:
            backend = open_backend(f"django-db://{alias}", **settings)
            for kind in ("lock", "ledger"):
                setattr(backend, kind, _closing(getattr(backend, kind), stack, "default"))
            backend.once_store = _closing(backend.once_store, stack)  # type: ignore[method-assign]
            return backend

        yield make


def own_threads() -> list[threading.Thread]:
    """The threads that wait for databases."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("celery-leader-db-")]


def takeover(stored: StoredRecord, holder: str = "b") -> Any:
    """The record with which *holder* takes over."""
    return replace(stored.record, holder_identity=holder, fencing_token=stored.record.fencing_token + 1)


def race(locks: list[Any], seen: StoredRecord) -> list[Any]:
    """Have each of *locks* take over from *seen*, all at once, with a token of its own; what each got or raised."""
    outcomes: list[Any] = []
    barrier = threading.Barrier(len(locks))

    def contend(number: int) -> None:
        token = seen.record.fencing_token + 1 + number
        record = replace(seen.record, holder_identity=f"c{number}", fencing_token=token)
        barrier.wait(10)
        try:
            outcomes.append(locks[number].update(record, seen))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            outcomes.append(error)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(len(locks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcomes


def _closing(make: Callable[..., Any], stack: ExitStack, *default: str) -> Callable[..., Any]:
    def make_and_remember(*election: str) -> Any:
        made = make(*(election or default))
        stack.callback(made.close)
        return made

    return make_and_remember
