"""What tests need: a clock to turn, a lock to script, and the contracts that locks and ledgers must keep.

The contracts are classes of pytest tests. A third-party lock passes when a subclass of :class:`LockContract` that
overrides :meth:`~LockContract.make_lock` does; if other processes see its store, it overrides
:meth:`~LockContract.elsewhere`, too. Ledgers have the same.
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
