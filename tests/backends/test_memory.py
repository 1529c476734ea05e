"""The reference backend keeps the contracts that all others are measured by."""

from __future__ import annotations

import pytest

from celery_leader.backends import open_backend
from celery_leader.backends.memory import MemoryBackend, MemoryLedger, MemoryLock, MemoryOnceStore
from celery_leader.testing import LedgerContract, LockContract
from tests.contracts.once_contract import OnceStoreContract


class TestMemoryLock(LockContract):
    """MemoryLock."""

    notifies = True

    @pytest.fixture(autouse=True)
    def _backend(self) -> None:
        self.backend = MemoryBackend()

    def make_lock(self, election: str = "default") -> MemoryLock:
        return self.backend.lock(election)


class TestMemoryLedger(LedgerContract):
    """MemoryLedger."""

    @pytest.fixture(autouse=True)
    def _backend(self) -> None:
        self.backend = MemoryBackend()

    def make_ledger(self, election: str = "default") -> MemoryLedger:
        return self.backend.ledger(election)

    def lose_data(self) -> None:
        self.backend.ledger("default").clear()


class TestMemoryOnceStore(OnceStoreContract):
    """MemoryOnceStore."""

    @pytest.fixture(autouse=True)
    def _backend(self) -> None:
        self.backend = MemoryBackend()

    def make_once_store(self) -> MemoryOnceStore:
        return self.backend.once_store()


def test_unnamed_memory_is_private_and_named_memory_is_shared() -> None:
    """``memory://`` gives a new store each time; ``memory://x`` one a process."""
    assert open_backend("memory://") is not open_backend("memory://")
    assert open_backend("memory://x") is open_backend("memory://x")
