"""What the message of a tick carries besides what its entry says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from celery_leader.beat.catch_up import POLICY_OPTION, WINDOW_OPTION
from celery_leader.ledger import Claim

#: The headers of a tick's message: when it was due (ISO 8601, UTC), and the fencing token of the term that sent it.
DUE_HEADER, TOKEN_HEADER = "leader_due_at", "leader_token"

#: For publishing: one more try at once, for a connection that was cut while it was idle. What fails then stays claimed,
#: and is sent when the broker is back.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}


@contextlib.contextmanager
def with_options(entry: Any, claim: Claim, token: int) -> Iterator[None]:
    """Give *entry* the id and the headers of its tick for a while; entries can't be copied, not all kinds of them."""
    before = entry.options
    # kombu tells what may pass from what may not only of what it tried again.
    options = {"retry_policy": RETRY_POLICY, **before, "retry": True, "task_id": claim.task_id}
    headers = {**(options.pop("headers", None) or {})}
    for ours in (POLICY_OPTION, WINDOW_OPTION):
        options.pop(ours, None)
        headers.pop(ours, None)
    headers[DUE_HEADER] = claim.tick.due_at.isoformat()
    headers[TOKEN_HEADER] = str(token)
    entry.options = {**options, "headers": headers}
    try:
        yield
    finally:
        entry.options = before
