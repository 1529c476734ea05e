"""What the rows of a ledger say, read one by one: a row that can't be read costs its own entry, and no other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from celery_leader.election.limits import shown, shown_names
from celery_leader.ledger import Claim, require_sound

logger = logging.getLogger(__name__)

Row = TypeVar("Row")


class Reading(Generic[Row]):
    """One reading of a whole ledger.

    The store removes the rows that are :attr:`damaged`: no claim could take their place otherwise, because a store
    compares what a row says and not what it means.
    """

    def __init__(self) -> None:
        """Begin; nothing was read yet."""
        #: The claims that could be read, by entry.
        self.claims: dict[str, Claim] = {}
        #: The keys of damaged rows in the store, and what these rows call their entries.
        self.damaged: dict[Row, str | bytes] = {}
        self._reason = ""

    def take(self, row: Row, entry: str | bytes, decode: Callable[..., Claim], *values: Any) -> None:
        """Note the claim that *decode* makes of the *values* of *row*, or that no leader can have written it."""
        try:
            claim = decode(*values)
            require_sound(claim)
        except (ValueError, TypeError, OverflowError) as error:
            self._reason = self._reason or shown(error)
            self.damaged[row] = entry
        else:
            self.claims[claim.tick.entry] = claim

    def report(self, place: str) -> None:
        """Name the damaged rows of *place*, which were removed, in one line: there may be a million."""
        if self.damaged:
            logger.error("%s: %d damaged claim(s) removed, so these entries start afresh: %s. What was wrong: %s",
                         place, len(self.damaged), shown_names(self.damaged.values()), self._reason)  # fmt: skip
