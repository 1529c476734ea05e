"""The rules of an election, without a thread: one candidate's attempts, and what it may believe after each.

::

                        attempt: vacant, or unchanged for its lease
        +----------+  ------------------------------------------------>  +---------+
        | follower |                                                     | leader  |---+ attempt: renewed
        +----------+  <------------------------------------------------  +---------+ <-+
          |      ^      released · renew deadline over (expired) · the record
          +------+      names somebody else or another term (lost)
       attempt: held by another

Why at most one candidate trusts itself: a leader's trust ends ``renew_deadline`` after the *start* of its last
successful write. A follower takes over only when it has seen the record unchanged for ``lease_duration``, on its own
clock, from a moment *after* that write. The lease is longer than the deadline, so the first ends before the second
begins, unless the two clocks run at rates that differ by lease / deadline or more. The write itself is a
compare-and-swap: a renewal that arrives after a takeover changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import replace

from celery_leader.election.alarm import in_words
from celery_leader.election.candidacy import Candidacy
from celery_leader.election.clock import Clock, DistinctTimes, SystemClock
from celery_leader.election.config import ElectionConfig
from celery_leader.election.limits import TOO_MANY, shown
from celery_leader.election.lock import Lock, StoredRecord
from celery_leader.election.observation import Observation
from celery_leader.election.observers import Observer
from celery_leader.election.record import ElectionRecord
from celery_leader.election.reports import Reports
from celery_leader.election.term import StopReason, Term, Trust
from celery_leader.exceptions import LeaseExpired, RecordConflict, RecordNotFound, StoreUnavailable

logger = logging.getLogger(__name__)

#: Followers that saw a record change at one moment take it over within this part of a retry period: no herd.
TAKEOVER_SPREAD = 0.05


class LeaderElector:
    """One candidate in one election.

    :meth:`try_acquire_or_renew`, :meth:`step` and :meth:`release` do I/O and belong to one thread (see
    :class:`~celery_leader.election.ElectorThread`). The questions — :meth:`is_leader`, :attr:`term`,
    :meth:`get_leader`, :meth:`check` — may be asked from any thread at any time and do none.
    """

    def __init__(
        self,
        config: ElectionConfig,
        lock: Lock,
        *,
        clock: Clock | None = None,
        observers: Iterable[Observer] = (),
        publish: Callable[[Trust | None], None] = lambda trust: None,
        random_source: random.Random | None = None,
    ) -> None:
        """Make a follower that has observed nothing yet.

        Args:
            config: Names and durations.
            lock: The record's place.
            clock: The machine's clocks when omitted.
            observers: Notified of terms in order, from a queue each; see
                :class:`~celery_leader.election.observers.Observer`.
            publish: Called with the trust at each of its changes, on the elector's thread and *before* a lease is
                released. It must neither block nor raise.
            random_source: Where the jitter comes from.
        """
        self.config = config
        self.lock = lock
        #: How far the next attempt may go. Any thread may assign it.
        self.candidacy = Candidacy.CONTEND
        self._clock: Clock = clock or SystemClock()
        self._write_times = DistinctTimes(self._clock)
        takeover = config.lease_duration + config.retry_period * (1 + config.jitter_factor)
        place = lock.describe()
        self._reports = Reports(config, place, observers, patience=takeover)
        self._publish = publish
        self._random = random_source or random.Random()  # noqa: S311  # spreads requests, hides nothing
        self._pid = os.getpid()
        self._observed = Observation(config, self._clock, place)
        self._term: Term | None = None  # mine, or perhaps mine: a write for it had no answer
        self._sent_at = 0.0  # when the first write for it began (monotonic seconds)
        self._trust: Trust | None = None
        self._cause = ""  # why the term began, unless by a hand-over

    # -- questions ---------------------------------------------------------------------------------------------

    def is_leader(self) -> bool:
        """Return whether this process leads at this moment, judged by the clock and never by a stored flag."""
        return self.trust is not None

    @property
    def trust(self) -> Trust | None:
        """The belief "I lead" while it lasts, else None; always None in a forked child."""
        trust = self._trust
        if trust is None or self._clock.monotonic() >= trust.until or self._is_copy():
            return None
        return trust

    @property
    def term(self) -> Term | None:
        """The term in which this process leads at this moment."""
        trust = self.trust
        return trust.term if trust else None

    def get_leader(self) -> str:
        """Return the last observed holder, empty when nobody held the lease. It may have expired since."""
        return self._observed.holder

    @property
    def trouble(self) -> str:
        """Why this candidate can't take part at the moment: its store's last error. Empty while the store answers."""
        return self._reports.trouble

    def check(self, max_tolerable_expired_lease: float = 0.0) -> None:
        """Complain when a held lease is no longer renewed. A follower is healthy.

        Args:
            max_tolerable_expired_lease: How many seconds after the end of the lease are tolerated.

        Raises:
            LeaseExpired: The last renewal is older than the lease plus the tolerance.
        """
        trust = self._trust
        if trust is None or self._is_copy():
            return
        age = self._clock.monotonic() - trust.renewed_at
        if age > self.config.lease_duration + max_tolerable_expired_lease:
            raise LeaseExpired(
                f"Election {self.config.name!r}: {self.config.identity} holds the lease of token "
                f"{trust.term.fencing_token} and has not renewed it for {age:.1f} s; it lasts "
                f"{self.config.lease_duration:g} s. The elector stands still: restart this process."
            )

    # -- actions -----------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Make one attempt and return after how many seconds the next is due. Errors of the store are logged."""
        if self.try_acquire_or_renew():
            return self.config.retry_period
        if trust := self.trust:
            return min(self.config.retry_period, max(0.0, trust.until - self._clock.monotonic()))
        delay = self.config.retry_period * self._random.uniform(1, 1 + self.config.jitter_factor)
        if (left := self._observed.lease_left()) > 0:  # a look after its end could be late by a whole poll
            return min(delay, left + self.config.retry_period * self._random.uniform(0, TAKEOVER_SPREAD))
        return delay

    def try_acquire_or_renew(self) -> bool:
        """Make one attempt to get or keep the lease.

        Returns:
            Whether it succeeded: this process leads, until the start of this attempt + ``renew_deadline``.
            False in a forked child, which is no candidate.
        """
        if self._is_copy():
            return False
        started = self._clock.monotonic()
        self._end_if_expired(started)
        try:
            stored = self._attempt()
        except RecordConflict as conflict:
            logger.debug("Election %r: another candidate was faster: %s", self.config.name, conflict)
            stored = None
        except StoreUnavailable as error:
            self._reports.failed(error, self.trust, self._clock.monotonic())
            self._reports.leads(self.get_leader())
            return False
        won = stored is not None and self._settle(stored, started)
        is_led = self._trust is not None or self._observed.lease_left() > 0
        self._reports.answered(self._observed.record, self.candidacy, self._clock.monotonic(), is_led=is_led)
        return won

    def release(self) -> bool:
        """End the term and release the lease, so that a follower may take it at once.

        The trust ends first. Nothing is written when there is no term, when its time is over, or in a forked child.

        Returns:
            Whether the store now holds the released record.
        """
        if self._is_copy():
            return False
        self._end_if_expired(self._clock.monotonic())
        term, trust = self._term, self._trust
        self._forget()
        if term is None:
            return False
        try:
            return self._write_release(term, self._observed.stored if trust else None)
        finally:
            if trust:
                self._reports.stopped(term, StopReason.RELEASED)
            self._reports.leads(self.get_leader())

    def join_observers(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until every observer has heard all; return whether all have."""
        return self._reports.observers.join(timeout)

    # -- one attempt -------------------------------------------------------------------------------------------

    def _attempt(self) -> StoredRecord | None:
        """Write what the rules allow, and return it as the store holds it; None when they allow no write."""
        if self.candidacy is Candidacy.OBSERVE:
            with contextlib.suppress(RecordNotFound):
                self._look()
            return None
        known = self._observed.stored
        if self._trust and known and self._is_mine(known.record):
            try:
                return self._renew(known)
            except RecordConflict:
                pass  # somebody wrote: the look shows who
        try:
            seen = self._look()
        except RecordNotFound:
            return self._create_record()
        if self._is_mine(seen.record):
            return self._renew(seen)
        if self._is_taken():
            return None
        return self._write_new_term(seen.record.leader_transitions + 1, seen, self._why_taken_over(seen.record))

    def _why_taken_over(self, record: ElectionRecord) -> str:
        """Return why the lease in *record* may be taken over; empty when its holder gave it back."""
        if not record.holder_identity:
            return ""
        silent = in_words(self._observed.age())
        return f"it took over from {shown(record.holder_identity)}, which has not renewed for {silent}"

    def _look(self) -> StoredRecord:
        """Read the record. A record that names somebody else, or another term of mine, ends my term."""
        stored = self.lock.get()
        self._observed.note(stored)
        if not self._is_mine(stored.record):
            holder = shown(stored.record.holder_identity) or "nobody"
            self._end(StopReason.LOST, f"the record names {holder} (token {stored.record.fencing_token})")
        return stored

    def _renew(self, previous: StoredRecord) -> StoredRecord:
        return self._write(self._mine(previous.record), previous)

    def _create_record(self) -> StoredRecord | None:
        """Create the record: the first one, or the next when the store lost its data, which ends nobody's trust.

        A leader puts its record back. A candidate that knows of a live lease waits it out.
        """
        known = self._observed.record
        if self._trust and known:
            return self._write(self._mine(known), None)
        if self._is_taken(is_gone=True):
            return None
        cause = "the record that it had seen is gone from the store" if known else ""
        return self._write_new_term(known.leader_transitions + 1 if known else 0, None, cause)

    def _write_new_term(self, transitions: int, previous: StoredRecord | None, cause: str = "") -> StoredRecord:
        now = self._clock.utcnow()
        token = self._observed.next_token(now, is_gone=previous is None)
        self._term, self._sent_at = Term(self.config.name, self.config.identity, token), self._clock.monotonic()
        self._cause = cause
        transitions = min(transitions, TOO_MANY - 1)
        record = self._mine(ElectionRecord(acquire_time=now, leader_transitions=transitions, fencing_token=token))
        try:
            return self._write(record, previous)
        except RecordConflict:
            self._term = None
            raise

    def _mine(self, record: ElectionRecord) -> ElectionRecord:
        """Return *record* with the fields that every write of a leader sets."""
        return replace(
            record,
            holder_identity=self.config.identity,
            lease_duration=self.config.lease_duration,
            renew_time=self._write_times.next(),
            deployment=self.config.deployment,
        )

    def _write(self, record: ElectionRecord, previous: StoredRecord | None) -> StoredRecord:
        try:
            return self.lock.create(record) if previous is None else self.lock.update(record, previous)
        except StoreUnavailable as error:
            return self._read_back(record, previous, error)

    def _read_back(
        self, record: ElectionRecord, previous: StoredRecord | None, error: StoreUnavailable
    ) -> StoredRecord:
        """Find out whether a write without an answer happened: the store holds it now, and did not before.

        Our name and token don't prove it: the record of an earlier renewal has them too, and followers may measure
        the age of that one.
        """
        try:
            stored = self._look()
        except (StoreUnavailable, RecordNotFound):
            raise error from None
        if stored.record != record or (previous is not None and stored.version == previous.version):
            raise error
        return stored

    def _write_release(self, term: Term, previous: StoredRecord | None) -> bool:
        """Blank the record if it is *term*'s. A look comes first unless *previous* is what the store holds."""
        for _ in range(2):
            try:
                previous = previous or self._look()
                if not term.holds(previous.record):
                    return False
                self._observed.note(self._write(previous.record.released(self._write_times.next()), previous))
                return True
            except RecordNotFound:
                return False
            except RecordConflict:
                logger.debug("Election %r: the record changed during its release", self.config.name)
            except StoreUnavailable as error:
                self._reports.failed(error, self.trust, self._clock.monotonic())
            previous = None
        return False

    # -- whose the record is ------------------------------------------------------------------------------------

    def _is_copy(self) -> bool:
        """Return whether this is a forked child: only its parent may act on what it inherited."""
        return os.getpid() != self._pid

    def _is_mine(self, record: ElectionRecord) -> bool:
        return self._term is not None and self._term.holds(record)

    def _is_taken(self, *, is_gone: bool = False) -> bool:
        """Return whether this candidate must leave the record to its holder, or must not contend at all.

        Args:
            is_gone: The record was there and has vanished.
        """
        return self.candidacy is not Candidacy.CONTEND or self._observed.lease_left(is_gone=is_gone) > 0

    # -- terms -------------------------------------------------------------------------------------------------

    def _settle(self, stored: StoredRecord, started: float) -> bool:
        """Begin or prolong the trust: a write that began at *started* succeeded. One that took too long gives none."""
        self._observed.note(stored)
        until = started + self.config.renew_deadline
        if (overdue := self._clock.monotonic() - until) >= 0 or self._term is None:
            self._end(StopReason.EXPIRED, self._reports.why_expired(overdue))
            return False
        is_new = self._trust is None
        self._trust = Trust(self._term, renewed_at=started, until=until)
        self._publish(self._trust)
        if is_new:
            self._reports.started(self._term, self._cause)
        return True

    def _end_if_expired(self, now: float) -> None:
        """End a trust whose time is over, and forget a term that no answer confirmed in that time.

        Others may have led since, with greater tokens, even if a store that was rolled back shows my record again. By
        their clocks a lease ends no sooner than the deadline by mine. The deadline counts from the first write, which
        may be the only one that happened.
        """
        if self._trust and now >= self._trust.until:
            self._end(StopReason.EXPIRED, self._reports.why_expired(now - self._trust.until))
        elif self._term and not self._trust and now - self._sent_at >= self.config.renew_deadline:
            self._forget()

    def _end(self, reason: StopReason, detail: str = "") -> None:
        trust = self._trust
        self._forget()
        if trust:
            self._reports.stopped(trust.term, reason, detail)

    def _forget(self) -> None:
        had_trust = self._trust is not None
        self._trust = self._term = None
        if had_trust:
            self._publish(None)
