"""What the messages of a tick carry besides what its entry says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from celery_leader.beat.catch_up import POLICY_OPTION, WINDOW_OPTION
from celery_leader.beat.due_times import message_id
from celery_leader.beat.outbox import Outcome
from celery_leader.ledger import DUE_HEADER, TOKEN_HEADER, Claim

#: For publishing: one more try at once, for a connection that was cut while it was idle. What fails then stays claimed,
#: and is sent when the broker is back.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}


class Sending:
    """One run on its way to the broker.

    Most schedulers publish one message a run; some publish several, such as one a tenant. The n-th message of a run
    has the same id whoever sends it, and however often.
    """

    def __init__(self, claim: Claim, token: int) -> None:
        """Begin to send the run of *claim* in the term *token*."""
        self.claim = claim
        #: How many messages the scheduler asked for so far.
        self.messages = 0
        #: What became of the run: the worst that happened to one of its messages.
        self.outcome = Outcome.OUT
        #: The last error, and what the scheduler's method returned.
        self.error: BaseException | None = None
        self.result: Any = None
        #: Whether a stopping beat has cut the connection meanwhile: no error says anything of the message then.
        self.is_cut = False
        self._token = token

    def is_of(self, entry: Any) -> bool:
        """Return whether it is *entry* whose run is sent."""
        return bool(entry.name == self.claim.tick.entry)

    def failed(self, error: BaseException, outcome: Outcome) -> None:
        """Note that one message could not be sent, and what becomes of it."""
        self.error = error
        self.outcome = max(self.outcome, outcome)

    def raise_or_return(self) -> Any:
        """Return what the scheduler's method returned, or raise what it raised."""
        if isinstance(self.error, Exception):
            raise self.error
        return self.result

    @contextlib.contextmanager
    def next_message(self, entry: Any) -> Iterator[None]:
        """Give *entry* the id and the headers of its next message until the block ends.

        The entry itself is changed, because not all kinds of entries can be copied.
        """
        before = entry.options
        # Only with a retry does kombu tell errors that may pass from those that won't.
        options = {"retry_policy": RETRY_POLICY, **before, "retry": True}
        options["task_id"] = message_id(self.claim.task_id, self.messages)
        headers = {**(options.pop("headers", None) or {})}
        for ours in (POLICY_OPTION, WINDOW_OPTION):
            options.pop(ours, None)
            headers.pop(ours, None)
        headers[DUE_HEADER] = self.claim.tick.due_at.isoformat()
        headers[TOKEN_HEADER] = str(self._token)
        entry.options = {**options, "headers": headers}
        self.messages += 1
        try:
            yield
        finally:
            entry.options = before
