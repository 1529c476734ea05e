"""The contracts of a backend and of a once store; those of locks and ledgers have files of their own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from celery_leader.election import Lock
from celery_leader.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a delivery of a tick may run it. Neither flag is set while another delivery runs it.

    Attributes:
        may_run: The caller has claimed the tick, and may run it.
        is_done: The tick has run to its end.
        wait: When neither is true, how long (seconds) the other delivery's claim still lasts.
    """

    may_run: bool = False
    is_done: bool = False
    wait: float = 0.0


class OnceStore(Protocol):
    """Knows which ticks of one deployment a delivery runs now, and which ones are done.

    A text names a tick, the same for every sender: the id of its task and its due time. A delivery that runs the tick
    holds a claim, in the name of an *owner* that no other delivery ever has. Claims and notes end by the store's clock,
    so nothing compares the clocks of two machines. When the store's clock jumps ahead by n seconds, a claim ends n
    seconds early, and another delivery may begin while the first still runs.

    Calls are bounded like those of a :class:`~celery_leader.election.Lock`, and may come from several threads at a
    time.
    """

    def begin(self, tick: str, owner: str, seconds: float) -> Admission:
        """Claim a tick for *owner*, unless it is done or another owner's claim lasts.

        Args:
            tick: The tick's name.
            owner: Names this delivery. The owner of the claim may repeat the call, and gets the same answer.
            seconds: How long the claim lasts.

        Raises:
            StoreUnavailable: There was no answer; the tick may be claimed.
        """
        ...

    def done(self, tick: str, owner: str, seconds: float) -> bool:
        """Note that a tick is done, even when another delivery has claimed it meanwhile: it is a fact.

        Args:
            tick: The tick's name.
            owner: Names the delivery that ran it.
            seconds: How long to remember.

        Returns:
            Whether the claim of *owner* lasted until now. False: another delivery may have run the tick as well.

        Raises:
            StoreUnavailable: There was no answer; the note may be stored.
        """
        ...

    def release(self, tick: str, owner: str) -> None:
        """End the claim of *owner*, if it has one: another delivery may run the tick at once.

        Raises:
            StoreUnavailable: There was no answer.
        """
        ...

    def close(self) -> None:
        """Close connections. May be called more than once; a later call of another method opens them again."""
        ...


@runtime_checkable
class TransactionalOnceStore(OnceStore, Protocol):
    """A OnceStore in a database to which tasks write, too."""

    def transaction(self, tick: str, owner: str, seconds: float) -> AbstractContextManager[None]:
        """Open a transaction of the calling thread that also notes the tick as done.

        The writes of the block to that database and the note are committed together, or none of them. An error in the
        block rolls back.

        Args:
            tick: The tick's name.
            owner: Names the delivery that runs it.
            seconds: How long to remember.

        Raises:
            RecordConflict: At the end of the block the claim of *owner* had ended. Everything was rolled back.
        """
        ...


class Backend(Protocol):
    """Gives the lock and the ledger of each election. Its constructor opens no connection."""

    def lock(self, election: str) -> Lock:
        """Return the lock of the election: the place of its record."""
        ...

    def ledger(self, election: str) -> Ledger:
        """Return the ledger of the election: the place of its claims."""
        ...

    def once_store(self) -> OnceStore:
        """Return the place where consumers note which ticks are done, for all elections together."""
        ...

    def check(self) -> None:
        """Check that the store is reachable and set up.

        Raises:
            ConfigurationError: It is not set up, and waiting won't help (a migration is missing, an alias is unknown).
            StoreUnavailable: It did not answer; it may answer later.
        """
        ...

    def describe(self) -> str:
        """Return where the store is, for logs: without passwords."""
        ...
