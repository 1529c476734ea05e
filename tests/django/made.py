"""Makes locks and ledgers in databases for the contracts, here and in other processes."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from django.db import connections

from celery_leader.django.models import LedgerTerm, PeriodicRun
from tests.databases import variant
from tests.django.elsewhere import make_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX = "proj"


class OnAlias:
    """Makes locks and ledgers in each database."""

    made_kind: str
    options: ClassVar[dict[str, bool]] = {}

    @pytest.fixture(autouse=True)
    def _backend(self, alias: str, backend_of: Callable[..., Any]) -> None:
        self.alias = alias
        self.notifies = alias == "postgres"
        self.backend = backend_of(alias, prefix=PREFIX, options=self.options)

    def make(self, election: str = "default") -> Any:
        return getattr(self.backend, self.made_kind)(election)

    def elsewhere(self) -> Callable[[str], Any]:
        entry = connections.settings[self.alias]
        return partial(make_there, self.alias, entry, PREFIX, self.made_kind, options=self.options)

    def lose_data(self) -> None:
        for model in (LedgerTerm, PeriodicRun):
            model.objects.using(self.alias).all().delete()


class OverNetwork:
    """Makes them in each database that is a server, also by way of a proxy."""

    made_kind: str
    options: ClassVar[dict[str, bool]] = {}

    @pytest.fixture(autouse=True)
    def _backend(self, server_alias: str, backend_of: Callable[..., Any]) -> Iterator[None]:
        self.alias, self.backend_of = server_alias, backend_of
        # As the drivers send it: with what stands before or after it, for MariaDB is also told READ COMMITTED.
        commit = {"postgresql": b"COMMIT\0", "mysql": b"\x03COMMIT"}[connections[server_alias].vendor]
        self.final_requests = {**dict.fromkeys(("create", "takeover", "claim"), commit), "renew": b"UPDATE"}
        self.proxied: dict[tuple[str, int], str] = {}
        with ExitStack() as self.aliases:
            yield

    def address(self) -> tuple[str, int]:
        entry = connections.settings[self.alias]
        return entry["HOST"], int(entry["PORT"])

    def make(self, election: str = "default") -> Any:
        backend = self.backend_of(self.alias, prefix=PREFIX, options=self.options)
        return getattr(backend, self.made_kind)(election)

    def make_through(self, address: tuple[str, int], timeout: float, election: str = "default") -> Any:
        if address not in self.proxied:
            host, port = address
            self.proxied[address] = self.aliases.enter_context(variant(self.alias, HOST=host, PORT=str(port)))
        backend = self.backend_of(self.proxied[address], prefix=PREFIX, timeout=timeout, options=self.options)
        return getattr(backend, self.made_kind)(election)
