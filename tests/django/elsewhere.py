"""What other processes do with locks and ledgers in databases. They set Django up first: no model is imported here."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from django.db import connections

from celery_leader.backends import open_backend
from celery_leader.exceptions import RecordConflict
from celery_leader.testing import sample_claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_leader.testing.contests import Meet

STEPS = 60


def make_there(
    alias: str,
    entry: dict[str, Any],
    prefix: str,
    kind: str,
    election: str,
    *,
    timeout: float = 30.0,
    options: dict[str, bool] | None = None,
) -> Any:
    """Make a lock or a ledger (*kind*) on *alias*, whose settings are *entry*."""
    if not apps.ready:
        django.setup()
    connections.settings.setdefault(alias, entry)
    backend = open_backend(f"django-db://{alias}", prefix=prefix, timeout=timeout, options=options or {})
    return getattr(backend, kind)(election)


def contend(make: Callable[..., Any], process: int, meet: Meet) -> tuple[list[int], list[int], float]:
    """Count up, taking over at each third step, and claim ticks; the steps and ticks that were ours, the worst call."""
    steps, ticks, worst = [], [], 0.0
    with closing(make("lock", "default")) as lock, closing(make("ledger", "default")) as ledger:
        lock.get()
        ledger.confirm(1, [])
        meet()
        for second in range(STEPS):
            begun = time.monotonic()
            if ledger.claim(1, [sample_claim(second=second)]) == [True]:
                ticks.append(second)
            worst = max(worst, time.monotonic() - begun)
            while (seen := lock.get()).record.leader_transitions < min(second + 1, STEPS):
                step = seen.record.leader_transitions + 1
                token = seen.record.fencing_token + (step % 3 == 0)
                record = replace(
                    seen.record, holder_identity=str(process), leader_transitions=step, fencing_token=token
                )
                begun = time.monotonic()
                try:
                    lock.update(record, seen)
                    steps.append(step)
                except RecordConflict:
                    pass
                worst = max(worst, time.monotonic() - begun)
    return steps, ticks, worst
