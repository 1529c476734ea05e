"""Everything that this package raises. One root, so that one ``except`` is enough."""

from __future__ import annotations


class LeaderError(Exception):
    """The root of all errors of celery-leader.

    Raised without a message, an error says what its docstring's first line says.
    """

    def __str__(self) -> str:
        """Return the message, or the class's own summary when none was given."""
        return super().__str__() or (type(self).__doc__ or "").partition("\n")[0]


class ConfigurationError(LeaderError, ValueError):
    """A setting is wrong or impossible; the message names it, its value and the cure."""


class StoreUnavailable(LeaderError):
    """The store gave no answer, so the outcome of the call is unknown. Any store raises it: lock, ledger, once store.

    Raised for anything that is neither a result nor a conflict: a timeout, a refused connection,
    an error of the server. It never means "not found".
    """


class RecordDamaged(StoreUnavailable):
    """What the store holds under the election's name is not an election's record.

    It is never overwritten: an operator decides. The message tells how to mend it.
    """


class UnstorableClaim(LeaderError):
    """A ledger can't keep a claim, however often it is asked: one of its values does not fit. Nothing was stored.

    The message says what does not fit, and the cure.
    """


class RecordNotFound(LeaderError, LookupError):
    """The store answered that it holds no such record."""


class RecordConflict(LeaderError):
    """The store holds something else than the caller saw; nothing was written."""


class NotLeader(LeaderError):
    """This process does not lead the election that the work is reserved for."""


class LeadershipLost(LeaderError):
    """A term that was current has ended: a newer one exists or its time is over.

    Attributes:
        cure: What an operator can do, where a store refuses a term because of a newer one that never was; else empty.
    """

    def __init__(self, message: str = "", *, cure: str = "") -> None:
        """Say *message*, and keep the *cure*."""
        super().__init__(*[message] if message else [])
        self.cure = cure


class LeaseExpired(LeaderError):
    """A held lease was not renewed for longer than it lasts: the elector is stuck."""
