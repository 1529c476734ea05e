"""What tests need: a clock to turn, a lock to script, and the contracts that locks and ledgers must keep.

The contracts are classes of pytest tests. A third-party lock passes when a subclass of :class:`LockContract` that
overrides :meth:`~LockContract.make_lock` does; if other processes see its store, it overrides
:meth:`~LockContract.elsewhere`, too. A lock whose store is reached over TCP inherits :class:`NetworkedLockContract`
beside it, which loses answers and cuts connections on the way; one whose store has a clock,
:class:`StoreClockContract`. Ledgers have the same. :class:`OnceStoreContract` is for what ``once_per_tick`` keeps.
"""

from __future__ import annotations

from celery_leader.testing.clock_contract import StoreClockContract
from celery_leader.testing.doubles import FakeClock, ScriptedLock, forced_leader
from celery_leader.testing.ledger_contract import LedgerContract
from celery_leader.testing.lock_contract import LockContract
from celery_leader.testing.network_contract import NetworkedLedgerContract, NetworkedLockContract
from celery_leader.testing.once_contract import OnceStoreContract
from celery_leader.testing.proxy import Proxy
from celery_leader.testing.samples import sample_claim, sample_record

__all__ = [
    "FakeClock",
    "LedgerContract",
    "LockContract",
    "NetworkedLedgerContract",
    "NetworkedLockContract",
    "OnceStoreContract",
    "Proxy",
    "ScriptedLock",
    "StoreClockContract",
    "forced_leader",
    "sample_claim",
    "sample_record",
]
