"""Records and claims to store, with no field at its default."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from celery_leader.election import ElectionRecord
from celery_leader.ledger import Claim, Tick


def sample_record(**changes: Any) -> ElectionRecord:
    """Return a record with every field set, changed by *changes*."""
    now = datetime(2026, 11, 23, 8, 30, 0, 123456, tzinfo=timezone.utc)
    record = ElectionRecord(
        "celery@web-1/4121/9f3c2a10", 15.0, now, now, 3, 1_795_400_000_123, "proj on redis://b:6379/0"
    )
    return replace(record, **changes)


def sample_claim(entry: str = "tick", second: int = 0, **changes: Any) -> Claim:
    """Return a claim of *entry*, due *second* seconds after a fixed moment, changed by *changes*."""
    due = datetime(2026, 11, 23, 9, 0, 0, 654321, tzinfo=timezone.utc) + timedelta(seconds=second)
    claim = Claim(Tick("default", entry, due), f"id-{entry}-{second}", second + 1, due, schedule="every 1 s")
    return replace(claim, **changes)
