"""What a store has to give: the contracts of a backend and of what it keeps, but for locks and ledgers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from celery_leader.election import Lock
from celery_leader.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a delivery of a tick may run it: at most one of the two is true, and neither while another has it.

    Attributes:
        may_run: It is the caller's to run.
        is_done: It was run to its end.
        wait: How long (seconds) the claim of whoever runs it still lasts, when neither is true.
    """

    may_run: bool = False
    is_done: bool = False
    wait: float = 0.0


class OnceStore(Protocol):
    """What is known of the ticks of one deployment: nothing, that a delivery runs it, or that it was done.

    A tick is named by the id of its task, the same for whoever sends it. A delivery that runs it holds a claim, in the
    name of an *owner* that no other delivery ever has. Claims and notes both end by the store's clock, so that no two
    machines' clocks are compared. A clock that the store sets ahead by n seconds ends a claim n seconds early, and
    lets another delivery run beside the first if that still runs then.

    Calls are bounded like those of a :class:`~celery_leader.election.Lock`, and may come from several threads at a
    time.
    """

    def begin(self, task_id: str, owner: str, seconds: float) -> Admission:
        """Claim a tick for *owner*, unless it was done or another's claim lasts.

        Args:
            task_id: Names the tick.
            owner: Names this delivery. Repeated by the owner of the claim, the call is answered alike.
            seconds: How long the claim lasts.

        Raises:
            StoreUnavailable: There was no answer; the tick may have been claimed.
        """
        ...

    def done(self, task_id: str, owner: str, seconds: float) -> bool:
        """Note that a tick was done, whoever has claimed it meanwhile: it is a fact.

        Args:
            task_id: Names the tick.
            owner: Names the delivery that ran it.
            seconds: How long to remember.

        Returns:
            Whether the claim of *owner* lasted until now. False: others may have run the tick as well.

        Raises:
            StoreUnavailable: There was no answer; it may have been noted.
        """
        ...

    def release(self, task_id: str, owner: str) -> None:
        """End the claim of *owner*, if it has one: another delivery may run the tick at once.

        Raises:
            StoreUnavailable: There was no answer.
        """
        ...

    def close(self) -> None:
        """Give back connections. Callable more than once; a later call opens them again."""
        ...


@runtime_checkable
class TransactionalOnceStore(OnceStore, Protocol):
    """OnceStore in a database to which tasks write, too."""

    def transaction(self, task_id: str, owner: str, seconds: float) -> AbstractContextManager[None]:
        """Open a transaction in which the tick is noted as done.

        It is the calling thread's own: what the block writes to that database and the note are committed together, or
        neither. An error in the block rolls back.

        Args:
            task_id: Names the tick.
            owner: Names the delivery that runs it.
            seconds: How long to remember.

        Raises:
            RecordConflict: At the end: the claim of *owner* has ended. All was rolled back.
        """
        ...


class Backend(Protocol):
    """Gives the lock and the ledger of each election. Making one opens no connection."""

    def lock(self, election: str) -> Lock:
        """Return the place of the election's record."""
        ...

    def ledger(self, election: str) -> Ledger:
        """Return the place of the election's claims."""
        ...

    def once_store(self) -> OnceStore:
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
