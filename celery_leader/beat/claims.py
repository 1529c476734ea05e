"""A leader's copy of its ledger: what it claimed and what it knows to be sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from celery_leader.exceptions import LockUnavailable, RecordNotFound
from celery_leader.ledger import Claim, Ledger

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Claims:
    """The last claim of each entry, as one term knows it, kept equal in the ledger.

    While the ledger does not answer, claims are kept here and written when it answers again; a ledger that lost its
    data gets all of them back. Only a newer term stops it: :class:`~celery_leader.exceptions.LeadershipLost`
    leaves every method.
    """

    def __init__(self, ledger: Ledger, token: int) -> None:
        """Open *ledger* for the term *token* and load it.

        Raises:
            LeadershipLost: A newer term has opened it already.
            LockUnavailable: It does not answer; a leader that doesn't know what was sent sends nothing.
        """
        self._ledger = ledger
        self._token = token
        self._known: dict[str, Claim] = {}
        self._unsent: dict[str, Claim] = {}
        self.reload()
        self._behind = False  # whether the ledger may lack something that is known here

    def get(self, entry: str) -> Claim | None:
        """Return the last claim of *entry*."""
        return self._known.get(entry)

    def unsent(self) -> list[Claim]:
        """Return the claims whose messages are not known to have reached the broker, the oldest first."""
        return sorted(self._unsent.values(), key=lambda claim: claim.tick.due_at)

    def claim(self, claim: Claim) -> bool:
        """Make a tick ours; return False when it was claimed before."""
        accepted = self._write(lambda: all(self._ledger.claim(self._token, [claim])), if_unavailable=True)
        if accepted:
            self._note(claim)
        return accepted

    def confirm(self, claim: Claim) -> None:
        """Note that the message of *claim* reached the broker."""
        known = self._known.get(claim.tick.entry)
        if known and known.tick == claim.tick:
            self._note(replace(known, sent=True))
        self._write(lambda: self._ledger.confirm(self._token, [claim]), if_unavailable=None)

    def start_afresh(self, claims: Iterable[Claim]) -> None:
        """Replace what is known of the entries of *claims*, which are new or have a new schedule."""
        fresh = {claim.tick.entry: claim for claim in claims}
        changed = fresh.keys() & self._known.keys()
        for claim in fresh.values():
            self._note(claim)
        self._write(lambda: self._store_afresh(fresh.values(), changed), if_unavailable=None)

    def reload(self) -> None:
        """Read the ledger again, after it turned out to know something else.

        Raises:
            LeadershipLost: A newer term has opened it.
            LockUnavailable: It does not answer.
        """
        for claim in self._ledger.open(self._token).values():
            self._note(claim)

    def catch_up(self) -> None:
        """Write what the ledger lacks, if anything."""
        if self._behind:
            self._write(lambda: None, if_unavailable=None)

    def drop(self, entry: str) -> None:
        """Forget *entry*, which is in the schedule no more."""
        self._known.pop(entry, None)
        self._unsent.pop(entry, None)
        self._write(lambda: self._ledger.forget(self._token, [entry]), if_unavailable=None)

    def _note(self, claim: Claim) -> None:
        entry = claim.tick.entry
        self._known[entry] = claim
        if claim.sent:
            self._unsent.pop(entry, None)
        else:
            self._unsent[entry] = claim

    def _store_afresh(self, claims: Iterable[Claim], changed: Iterable[str]) -> None:
        self._ledger.forget(self._token, changed)
        self._ledger.restore(self._token, claims)

    def _write(self, write: Callable[[], Result], *, if_unavailable: Result) -> Result:
        try:
            if self._behind:
                self._restore()
            try:
                return write()
            except RecordNotFound as error:
                logger.warning("%s; writing back what this leader knows", error)
                self._restore()
                return write()
        except LockUnavailable as error:
            if not self._behind:
                logger.warning("The ledger does not answer; its claims are kept and written later: %s", error)
            self._behind = True
            return if_unavailable

    def _restore(self) -> None:
        known = list(self._known.values())
        self._ledger.restore(self._token, known)
        self._ledger.confirm(self._token, [claim for claim in known if claim.sent])
        self._behind = False
