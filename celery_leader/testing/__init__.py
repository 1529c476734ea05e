"""Tools for tests: a fake clock, a scripted lock, and the contracts that locks and ledgers must keep.

The contracts are classes of pytest tests. To test a lock of your own, subclass :class:`LockContract` and override
:meth:`~LockContract.make_lock`; if other processes see its store, override :meth:`~LockContract.elsewhere`, too.
:class:`LedgerContract` does the same for ledgers.
"""

from __future__ import annotations

from celery_leader.testing.doubles import FakeClock, ScriptedLock, forced_leader
from celery_leader.testing.ledger_contract import LedgerContract
from celery_leader.testing.lock_contract import LockContract
from celery_leader.testing.samples import sample_claim, sample_record

__all__ = [
    "FakeClock",
    "LedgerContract",
    "LockContract",
    "ScriptedLock",
    "forced_leader",
    "sample_claim",
    "sample_record",
]
