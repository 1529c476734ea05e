"""Locks and ledgers in databases keep the contracts, on each database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_leader.django.models import LedgerTerm, PeriodicRun
from celery_leader.testing import LedgerContract, LockContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_leader.django.ledger import DjangoLedger
    from celery_leader.django.lock import DjangoLock


class TestDjangoLock(LockContract):
    """DjangoLock."""

    @pytest.fixture(autouse=True)
    def _backend(self, alias: str, backend_of: Callable[..., Any]) -> None:
        self.tells_of_changes = alias == "postgres"
        self.backend = backend_of(alias, prefix="proj")

    def make_lock(self, election: str = "default") -> DjangoLock:
        return self.backend.lock(election)


class TestDjangoLedger(LedgerContract):
    """DjangoLedger."""

    @pytest.fixture(autouse=True)
    def _backend(self, alias: str, backend_of: Callable[..., Any]) -> None:
        self.alias = alias
        self.backend = backend_of(alias, prefix="proj")

    def make_ledger(self, election: str = "default") -> DjangoLedger:
        return self.backend.ledger(election)

    def lose_data(self) -> None:
        for model in (LedgerTerm, PeriodicRun):
            model.objects.using(self.alias).all().delete()
