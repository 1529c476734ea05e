"""A leader's copy of its ledger: its claims, and which of them are sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from celery_leader.election.alarm import Alarm
from celery_leader.election.limits import shown, shown_names
from celery_leader.exceptions import LeadershipLost, RecordNotFound, StoreUnavailable, UnstorableClaim
from celery_leader.ledger import Claim, Ledger, batches

logger = logging.getLogger(__name__)

#: A ledger that did not answer is asked again after this long (seconds): each try may take all the time that a call
#: of the store may, and ticks wait for it.
_ASK_AGAIN = 1.0
#: How long (seconds) the lease of a stopping process waits for a ledger that does not answer.
_PATIENCE = 3.0

Result = TypeVar("Result")


class UnknownClaims(LeadershipLost):
    """The ledger lost its data, and another term claimed in it since then; open it again."""


class Claims:
    """The last claim of each entry, as one term knows it, kept equal in the ledger.

    While the ledger does not answer, claims are kept here and written when it answers again; a ledger that lost its
    data gets all of them back. Every method may raise :class:`~celery_leader.exceptions.LeadershipLost`, and this copy
    is to be dropped then: a newer term has opened the ledger, or an earlier one claimed in it after it had lost its
    data. In the second case (:class:`UnknownClaims`) the claims of this copy have been written back before.
    """

    def __init__(
        self,
        ledger: Ledger,
        token: int,
        now: Callable[[], float] = time.monotonic,
        is_trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Open *ledger* for the term *token* and load it.

        Args:
            ledger: The election's.
            token: The fencing token of the term that claims.
            now: A monotonic clock, in seconds.
            is_trusted: Whether the term still is. An emptied ledger can't reject stale terms, so an ended term must
                not reopen it.

        Raises:
            LeadershipLost: A newer term has opened it already.
            StoreUnavailable: It does not answer; a leader that doesn't know the claims sends nothing.
        """
        self._ledger = ledger
        self._token = token
        self._now = now
        self._is_trusted = is_trusted
        self._ask_again_at = 0.0
        self._known: dict[str, Claim] = {}
        self._unsent: dict[str, Claim] = {}  # all others are sent, even if their claims are not marked so
        self._aside: set[str] = set()  # unsent, too, but not ours to send
        self._unkept: dict[str, UnstorableClaim] = {}  # by entry, why the ledger can't keep its claims
        self._alarm = Alarm()
        self._behind = False  # whether the ledger may lack claims of this copy
        self._behind_since = 0.0
        self.reload()

    def get(self, entry: str) -> Claim | None:
        """Return the last claim of *entry*; whether it is sent :meth:`unsent` tells."""
        return self._known.get(entry)

    def all(self) -> Collection[Claim]:
        """Return the last claim of each entry, in no order; whether it is sent :meth:`unsent` tells."""
        return self._known.values()

    @property
    def is_just_behind(self) -> bool:
        """Whether the ledger lacks claims of this copy, but will soon have them."""
        return self._behind and self._now() < self._behind_since + _PATIENCE

    def waits(self, entry: str) -> bool:
        """Return whether the last claim of *entry* is not known to be sent."""
        return entry in self._unsent

    def may_claim(self, entry: str) -> bool:
        """Return whether a run of *entry* can be claimed: its last one does not wait, and the ledger can keep it."""
        return not self.waits(entry) and self.can_keep(entry)

    def set_aside(self, entries: Iterable[str]) -> None:
        """Leave the unsent claims of *entries*, which this process does not know, to leaders that do."""
        for entry in entries:
            self._aside.add(entry)
            self._unsent.pop(entry, None)

    def probe(self) -> None:
        """Check that the ledger still has the claims of this copy, and write them back if not."""
        self._write(lambda: self._ledger.confirm(self._token, ()), if_unavailable=None)

    def unsent(self, *, newest_first: bool = False) -> list[Claim]:
        """Return the claims whose messages are not known to have reached the broker, the oldest first."""
        return sorted(self._unsent.values(), key=lambda claim: claim.tick.due_at, reverse=newest_first)

    def can_keep(self, entry: str) -> bool:
        """Return False when the ledger has refused a claim of *entry* for its data: it is never sent unclaimed."""
        return entry not in self._unkept

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Make ticks ours; return for each whether it is.

        False: it was claimed before, or the ledger :meth:`can't keep <can_keep>` it.
        """
        accepted = self._write(lambda: self._by_halves(self._store, claims), if_unavailable=[True] * len(claims))
        for claim, is_ours in zip(claims, accepted, strict=True):
            if is_ours:
                self._note(claim)
        return accepted

    def confirm(self, claims: Sequence[Claim]) -> None:
        """Note that the broker has the messages of *claims*."""
        for claim in claims:
            waiting = self._unsent.get(claim.tick.entry)
            if waiting and waiting.tick == claim.tick:
                del self._unsent[claim.tick.entry]
        self._write(lambda: self._ledger.confirm(self._token, self._keepable(claims)), if_unavailable=None)

    def start_afresh(self, claims: Iterable[Claim]) -> None:
        """Replace the last claims of entries that are new or have a new schedule."""
        fresh = {claim.tick.entry: claim for claim in claims}
        if not fresh:
            return
        changed = list(fresh.keys() & self._known.keys())
        for claim in fresh.values():
            self._note(claim)
        self._write(lambda: self._store_afresh(list(fresh.values()), changed), if_unavailable=None)

    def reload(self) -> None:
        """Read the ledger again, because it knows other claims.

        Raises:
            LeadershipLost: A newer term has opened it.
            StoreUnavailable: It does not answer.
        """
        found = self._ledger.open(self._token)
        for claim in found.values():
            self._note(claim)
        if len(self._known) > len(found):  # damaged ones are gone, and the next leader would miss them
            self._behind, self._behind_since, self._ask_again_at = True, self._now(), self._now()

    def catch_up(self) -> None:
        """Write the claims that the ledger lacks, if any."""
        if self._behind:
            self._write(lambda: None, if_unavailable=None)

    def flush(self) -> None:
        """Write the claims that the ledger lacks, even if it just failed to answer: this copy ends with the term."""
        self._ask_again_at = self._now()
        self.probe()

    def drop(self, entries: Sequence[str]) -> None:
        """Forget *entries*, which are in the schedule no more."""
        for entry in entries:
            self._known.pop(entry, None)
            self._unsent.pop(entry, None)
        self._write(lambda: self._ledger.forget(self._token, entries), if_unavailable=None)

    def _note(self, claim: Claim) -> None:
        entry = claim.tick.entry
        self._known[entry] = claim
        if claim.sent:
            self._unsent.pop(entry, None)
        else:
            self._unsent[entry] = claim

    def _store(self, claims: Sequence[Claim]) -> list[bool]:
        return list(self._ledger.claim(self._token, claims))

    def _put_back(self, claims: Sequence[Claim]) -> list[bool]:
        self._ledger.restore(self._token, claims)
        return [True] * len(claims)

    def _store_afresh(self, claims: Sequence[Claim], changed: Sequence[str]) -> None:
        for entries in batches(changed):
            self._ledger.forget(self._token, entries)
        for batch in batches(claims):
            self._by_halves(self._put_back, batch)

    def _by_halves(self, store: Callable[[Sequence[Claim]], list[bool]], claims: Sequence[Claim]) -> list[bool]:
        """Return what *store* answers for *claims*; find the ones that the ledger can't keep, which must cost no other.

        A batch that can't be stored is tried again in two halves, and so on.
        """
        try:
            return store(claims)
        except UnstorableClaim as error:
            if len(claims) == 1:
                self._leave_out(claims[0].tick.entry, error)
                return [False]
        middle = len(claims) // 2
        return self._by_halves(store, claims[:middle]) + self._by_halves(store, claims[middle:])

    def _keepable(self, claims: Iterable[Claim]) -> list[Claim]:
        return [claim for claim in claims if self.can_keep(claim.tick.entry)]

    def _leave_out(self, entry: str, reason: UnstorableClaim) -> None:
        self._known.pop(entry, None)
        self._unsent.pop(entry, None)
        self._unkept[entry] = reason

    def remind(self) -> None:
        """Name the entries that are left out, once a minute: their tasks never run."""
        if not self._unkept or self._alarm.due(self._now()) is None:
            return
        entry, reason = next(iter(self._unkept.items()))
        logger.error("%d of this schedule's entries are not sent, because the ledger can't keep claims of them: %s. "
                     "What stops %s: %s",
                     len(self._unkept), shown_names(self._unkept), shown(entry), reason)  # fmt: skip

    def _write(self, write: Callable[[], Result], *, if_unavailable: Result) -> Result:
        if self._behind and self._now() < self._ask_again_at:
            return if_unavailable
        try:
            if self._behind:
                self._restore()
            try:
                return write()
            except RecordNotFound as error:
                logger.warning("%s; writing back what this leader knows", error)
                self._restore()
                return write()
        except (StoreUnavailable, RecordNotFound) as error:  # or it lost its data again, in between
            if not self._behind:
                self._behind_since = self._now()
                logger.warning("The ledger does not answer; its claims are kept and written later: %s", error)
            self._behind = True
            self._ask_again_at = self._now() + _ASK_AGAIN
            return if_unavailable

    def _restore(self) -> None:
        open_ones = self._unsent.keys() | self._aside
        known = [claim if claim.tick.entry in open_ones else replace(claim, sent=True) for claim in self.all()]
        if not self._is_trusted():
            raise LeadershipLost(f"the term {self._token} is over: the ledger is left to the next one")
        found = self._ledger.open(self._token)
        for batch in batches(known):
            self._by_halves(self._put_back, batch)
        for batch in batches(self._keepable([claim for claim in known if claim.sent])):
            self._ledger.confirm(self._token, batch)
        self._behind = False
        if news := [claim.tick for claim in found.values() if self._is_news(claim)]:
            raise UnknownClaims(
                f"the ledger holds {len(news)} runs that this term does not know "
                f"({shown_names([tick.entry for tick in news])})"
            )

    def _is_news(self, claim: Claim) -> bool:
        """Return whether *claim*, found in the ledger, is later than the claim known here."""
        known = self._known.get(claim.tick.entry)
        return known is None or claim.tick.due_at > known.tick.due_at
