"""Locks and ledgers in databases keep the contracts, on each database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_leader.testing import LedgerContract, LockContract
from tests.contracts.network_contract import NetworkedLedgerContract, NetworkedLockContract
from tests.contracts.once_contract import OnceStoreContract
from tests.django.made import PREFIX, OnAlias, OverNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_leader.django.once import DjangoOnceStore


class TestDjangoLock(OnAlias, LockContract):
    """DjangoLock."""

    made_kind = "lock"
    make_lock = OnAlias.make


class TestDjangoLedger(OnAlias, LedgerContract):
    """DjangoLedger."""

    made_kind = "ledger"
    make_ledger = OnAlias.make


class TestDjangoLockOverNetwork(OverNetwork, NetworkedLockContract):
    """DjangoLock."""

    made_kind = "lock"
    make_lock, make_lock_through = OverNetwork.make, OverNetwork.make_through


class TestDjangoLedgerOverNetwork(OverNetwork, NetworkedLedgerContract):
    """DjangoLedger."""

    made_kind = "ledger"
    make_ledger, make_ledger_through = OverNetwork.make, OverNetwork.make_through


class TestDjangoOnceStore(OnceStoreContract):
    """DjangoOnceStore."""

    @pytest.fixture(autouse=True)
    def _backend(self, alias: str, backend_of: Callable[..., Any]) -> None:
        self.backend = backend_of(alias, prefix=PREFIX)

    def make_once_store(self) -> DjangoOnceStore:
        return self.backend.once_store()
