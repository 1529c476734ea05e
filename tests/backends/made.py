"""Makes locks and ledgers of a backend in Redis for the contracts, here and in other processes."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_leader.backends import open_backend
from celery_leader.backends.redis import RedisBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import RedisServer


class Made:
    """Gives a contract what it asks for. Whoever inherits it sets `url`, `made_kind`, and closes `made` at the end."""

    url: str
    made_kind: str
    made: ExitStack

    def elsewhere(self) -> Callable[[str], Any]:
        return partial(make_there, self.made_kind, self.url)

    def make(self, election: str = "default") -> Any:
        return self.make_at(self.url, election)

    def make_at(self, url: str, election: str = "default", timeout: float = 5.0) -> Any:
        made = make_there(self.made_kind, url, election, timeout)
        self.made.callback(made.close)
        return made


def make_there(kind: str, url: str, election: str, timeout: float = 30.0) -> Any:
    """Make a lock or a ledger, in any process."""
    return getattr(open_backend(url, timeout=timeout), kind)(election)


def backend_of(server: RedisServer, timeout: float = 5.0) -> RedisBackend:
    """Return the backend in *server*."""
    backend = open_backend(server.url, timeout=timeout)
    assert isinstance(backend, RedisBackend)
    return backend
