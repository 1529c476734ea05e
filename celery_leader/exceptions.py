"""The errors of this package. They have one root, so one ``except`` is enough."""

from __future__ import annotations


class LeaderError(Exception):
    """The root of all errors of celery-leader.

    An error without a message shows the first line of its class's docstring.
    """

    def __str__(self) -> str:
        """Return the message, or the class's summary when there is none."""
        return super().__str__() or (type(self).__doc__ or "").partition("\n")[0]


class ConfigurationError(LeaderError, ValueError):
    """A setting is wrong or impossible. The message names the setting, its value and the cure."""


class StoreUnavailable(LeaderError):
    """The store gave no answer, so the outcome of the call is unknown.

    Locks, ledgers and once stores raise it for anything that is neither a result nor a conflict: a timeout, a refused
    connection, an error of the server. It never means "not found".
    """


class RecordDamaged(StoreUnavailable):
    """The store holds something else than an election's record under the election's name.

    Nobody overwrites it: an operator decides. The message names the cure.
    """


class UnstorableClaim(LeaderError):
    """A ledger can't keep a claim, because one of its values does not fit. Nothing was stored.

    The message names the value and the cure. Another try would fail the same way.
    """


class RecordNotFound(LeaderError, LookupError):
    """The store answered that it holds no such record."""


class RecordConflict(LeaderError):
    """The store holds something else than the caller saw; nothing was written."""


class NotLeader(LeaderError):
    """This process does not lead the election, and only its leader may do the work."""


class LeadershipLost(LeaderError):
    """A term has ended: a newer term exists, or its time is over.

    Attributes:
        cure: The cure for an operator where a store refuses a term because of a newer term that never was; else empty.
    """

    def __init__(self, message: str = "", *, cure: str = "") -> None:
        """Show *message*, and keep the *cure*."""
        super().__init__(*[message] if message else [])
        self.cure = cure


class LeaseExpired(LeaderError):
    """The elector is stuck: it has not renewed its lease, which has ended."""
