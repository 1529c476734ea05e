"""A store that keeps elections."""

from __future__ import annotations

from typing import Protocol

from celery_leader.backends.effects import Effects
from celery_leader.election import Lock
from celery_leader.ledger import Ledger


class Backend(Protocol):
    """Gives the lock and the ledger of each election. Making one opens no connection."""

    def lock(self, election: str) -> Lock:
        """Return the place of the election's record."""
        ...

    def ledger(self, election: str) -> Ledger:
        """Return the place of the election's claims."""
        ...

    def effects(self) -> Effects:
        """Return the place where consumers note which ticks were done, whichever election sent them."""
        ...

    def check(self) -> None:
        """Look whether the store can be used as it is set up, beyond being reachable.

        Raises:
            ConfigurationError: It can't, and waiting won't help (a migration is missing, an alias is unknown).
            StoreUnavailable: It did not answer; it may later.
        """
        ...

    def describe(self) -> str:
        """Return where the store is, for logs: no passwords."""
        ...

    def close(self) -> None:
        """Give back what locks and ledgers share."""
        ...
