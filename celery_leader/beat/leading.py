"""A term of the beat's leadership: due runs are claimed, sent and confirmed, and nothing outlives the term."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from celery.beat import SchedulingError

from celery_leader.beat import batch as batches
from celery_leader.beat.batch import PAUSE, Batch
from celery_leader.beat.claims import Claims
from celery_leader.beat.due_times import Entry, StoppedClocks
from celery_leader.beat.entries import Entries
from celery_leader.beat.outbox import Outbox, Outcome, TickCounts
from celery_leader.beat.publisher import Publisher, Sending
from celery_leader.beat.reports import Failures, TakeoverReports
from celery_leader.beat.runs import Run
from celery_leader.election import Term
from celery_leader.election.alarm import Alarm
from celery_leader.election.limits import shown, shown_names
from celery_leader.leadership.campaign import Candidate
from celery_leader.ledger import Claim, Ledger
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

#: How long (seconds) a stopping process goes on sending its claimed runs. The next leader sends the rest.
ENDING_TIME = 0.5


class Host(batches.Host, Protocol):
    """The scheduler of a leading term and its takeover."""

    producer: Any
    #: How long (seconds) a leader that could not read its schedule waits, besides a standby's wait.
    read_again: float

    def now(self) -> datetime:
        """Return the time by the app's clock."""

    def monotonic(self) -> float:
        """Return a reading (seconds) of the monotonic clock."""

    def apply_async(self, entry: Entry, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """See :meth:`celery.beat.Scheduler.apply_async`."""

    def apply_as_base(self, entry: Entry, producer: Any) -> None:
        """Have the base send a run of *entry* as its own ``tick`` does."""

    def advance(self, run: Run) -> None:
        """Let the entry of *run*, which is claimed, have run."""

    def find_entry(self, name: str) -> Entry | None:
        """Return the entry *name* as it is now, None when there is none."""

    def begin_term(self) -> None:
        """Get the base ready to send."""


class LeadingTerm:
    """The state of a beat that leads: made at the takeover, dropped at the loss, never carried into another term."""

    def __init__(
        self,
        term: Term,
        host: Host,
        ledger: Ledger,
        *,
        settings: LeaderSettings,
        entries: Entries,
        publisher: Publisher,
        counts: TickCounts,
        is_trusted: Callable[[], bool],
        is_ending: Callable[[], bool],
    ) -> None:
        """Take over the claims that earlier leaders left in *ledger*.

        Args:
            term: The term.
            host: The scheduler.
            ledger: The election's.
            settings: The app's.
            entries: The scheduler's.
            publisher: Publishes their messages.
            counts: Where to count.
            is_trusted: Whether this process still trusts the term.
            is_ending: Whether the process is about to end.

        Raises:
            LeadershipLost: A newer term has opened the ledger already.
            StoreUnavailable: The ledger does not answer.
        """
        self.term = term
        self.is_trusted = is_trusted
        self.claims = Claims(ledger, term.fencing_token, host.monotonic, is_trusted=is_trusted)
        self.outbox = Outbox(self.claims, may_send=self.may_send, send=self._send, counts=counts, now=host.monotonic)
        self.batch: Batch | None = None
        self._host = host
        self._settings = settings
        self._entries = entries
        self._publisher = publisher
        self._counts = counts
        self._is_ending = is_ending
        self._ends_at: float | None = None  # until when a process that is about to end goes on sending
        self._probes_at = 0.0  # when to ask again whether the ledger still has its data
        publisher.away = Alarm()

    # -- a tick --------------------------------------------------------------------------------------------------

    def tick(self, base_tick: Callable[[], float]) -> float | None:
        """Send the claimed and unconfirmed runs, then the due ones.

        Args:
            base_tick: The base's own; it is called once a run.

        Returns:
            Seconds that the base wants to wait; None when the broker takes nothing.

        Raises:
            LeadershipLost: A newer term has opened the ledger.
            StoreUnavailable: The ledger could not be read again.
        """
        self.outbox.begin()
        self._deliver_again()
        if self.outbox.is_stuck:
            return None
        delay = self._send_due(base_tick)
        self._write_back()
        return delay

    def _deliver_again(self) -> None:
        unsent = self.claims.unsent()
        if not unsent:
            return
        gone = [claim.tick.entry for claim in unsent if self._host.find_entry(claim.tick.entry) is None]
        if gone:  # other code may know them: a deployment is under way, or will be rolled back
            logger.warning("Election %r: claimed runs of %s can't be sent here: they are not in this schedule",
                           self.term.election, shown_names(gone))  # fmt: skip
            self.claims.set_aside(gone)
        logger.debug("Election %r: sending %d runs that were claimed and not confirmed",
                     self.term.election, len(unsent))  # fmt: skip
        self.outbox.deliver_again(newest_first=self._settings.beat_catch_up != "all")

    def _send_due(self, base_tick: Callable[[], float]) -> float:
        """Let the base tick, once for each run that it claims with the first; return how long it wants to wait."""
        self._entries.look_for_observers()
        with StoppedClocks(self._host.now()) as clocks:  # for speed, too: the app's own clock is slow
            batch = self.batch = Batch(
                self._host,
                self._entries.planner,
                self.claims,
                clocks.now,
                look=partial(self._entries.look, clocks),
                claim=self.claim,
                can_send=self.can_send,
            )
            try:
                delay = base_tick()
                while delay <= 0 and batch.show_next():
                    delay = base_tick()
            finally:
                self.batch = None
                if not (is_whole := batch.end()):
                    self._host.heap = None
                self.outbox.confirm_sent()
        if batch.error:
            raise batch.error
        return delay if is_whole else max(delay, PAUSE)  # a refused run may be refused again: don't spin

    def _write_back(self) -> None:
        """Write what the ledger lacks: because it did not answer, or because it lost its data."""
        self.claims.catch_up()
        self.claims.remind()
        if self._host.monotonic() >= self._probes_at:
            self._probes_at = self._host.monotonic() + self._settings.lease_duration
            self.claims.probe()
            self._entries.warn_of_the_future(self.claims)

    # -- one run -------------------------------------------------------------------------------------------------

    def apply_entry(self, entry: Entry, producer: Any) -> None:
        """Have the base send the run of *entry* that is due."""
        if (run := self._run_of(entry)) and not run.claim.sent:
            self.outbox.offer(run.claim, partial(self._apply, entry, run.claim, producer))

    def apply_alone(self, entry: Entry, *, advance: bool, **kwargs: Any) -> Any:
        """Claim and send the run of *entry* for a base that calls ``apply_async`` by itself; return what that returns.

        Raises:
            SchedulingError: It could not be sent, and stays claimed.
            LeadershipLost: A newer term has opened the ledger.
            StoreUnavailable: The ledger could not be read again.
        """
        run = self._run_of(entry)
        if run is None:
            return None
        sent: list[Sending] = []

        def send() -> Outcome:
            sent.append(self._send_run(run.claim, partial(self._host.apply_async, entry, advance=False, **kwargs)))
            return sent[0].outcome

        if not run.claim.sent and self.can_send(run.claim):
            self.outbox.offer(run.claim, send)
        if advance:
            self._host.advance(run)
        if not self.batch:
            self.outbox.confirm_sent()
        if sent:
            return sent[0].raise_or_return()
        if run.claim.sent:
            return None
        raise SchedulingError(f"{entry.name} stays claimed: it can't be sent now")

    def _run_of(self, entry: Entry) -> Run | None:
        """Return the run of *entry* to be sent now, which is claimed; None when there is none to claim."""
        if run := self.batch and self.batch.take(entry):
            return run
        if self.outbox.is_stuck or self.claims.waits(entry.name) or not self.claims.can_keep(entry.name):
            return None  # a newer claim would replace the one that waits; a run that can't be claimed is not sent
        self._entries.know(self.claims, [entry])
        run = self._entries.planner.run(entry, self._host.now())
        if self.claim([run])[0]:
            return run
        if self.claims.can_keep(entry.name):
            self._host.heap = None
        return None

    def claim(self, runs: Sequence[Run]) -> list[bool]:
        """Make *runs* ours; return for each whether it is."""
        accepted = self.outbox.claim([run.claim for run in runs])
        self._count_missed([run for run, is_ours in zip(runs, accepted, strict=True) if is_ours])
        taken = [run for run, is_ours in zip(runs, accepted, strict=True) if not is_ours]
        if taken := [run for run in taken if self.claims.can_keep(run.entry.name)]:
            logger.warning("Election %r: %d runs were claimed already (%s, due at %s, …); reading the ledger again",
                           self.term.election, len(taken), shown(taken[0].entry.name),
                           taken[0].claim.tick.due_at)  # fmt: skip
            self.claims.reload()
        return accepted

    def _count_missed(self, runs: Sequence[Run]) -> None:
        """Count and log the missed runs that the claimed *runs* let go. After an outage all entries have some."""
        behind = [run for run in runs if run.missed]
        if not behind:
            return
        missed = sum(run.missed for run in behind)
        self._counts.missed += missed
        claim = behind[0].claim
        sent = f"; the one due at {claim.tick.due_at} is sent" if len(behind) == 1 and not claim.sent else ""
        logger.warning("Election %r: %d missed run%s of %s let go%s", self.term.election, missed, "s" * (missed > 1),
                       shown_names([run.entry.name for run in behind]), sent)  # fmt: skip

    # -- sending -------------------------------------------------------------------------------------------------

    def may_send(self) -> bool:
        """Return whether this term is still trusted, and there is time left if the process is to end."""
        if not self.is_trusted():
            return False
        if not self._is_ending():
            self._ends_at = None  # a handler of the project's own may have ended nothing
        elif self._ends_at is None:
            self._ends_at = self._host.monotonic() + ENDING_TIME
        return self._ends_at is None or self._host.monotonic() < self._ends_at

    def can_send(self, claim: Claim) -> bool:
        """Return whether this process may send the run of *claim*, and reaches its broker."""
        if not self.may_send():
            return False
        if not self._publisher.is_reachable(claim):
            self.outbox.is_stuck = True
            return False
        return True

    def _send(self, claim: Claim) -> Outcome:
        """Send a run that was claimed before."""
        entry = self._host.find_entry(claim.tick.entry)
        if entry is None or not self.can_send(claim):
            return Outcome.AWAY
        return self._apply(entry, claim, self._host.producer)

    def _apply(self, entry: Entry, claim: Claim, producer: Any) -> Outcome:
        return self._send_run(claim, partial(self._host.apply_as_base, entry, producer)).outcome

    def _send_run(self, claim: Claim, send: Callable[[], Any]) -> Sending:
        return self._publisher.send(claim, self.term.fencing_token, send)


class Takeover:
    """The way from a term of the election to one in which the beat sends. There is at most one at a time."""

    def __init__(self, host: Host, candidate: Candidate, patience: float, lead: Callable[[Term], LeadingTerm]) -> None:
        """Prepare.

        Args:
            host: The scheduler.
            candidate: This process in the beat's election.
            patience: How long (seconds) a process may take to notice that its term is over.
            lead: Makes the term in which the beat sends; raises what the ledger does.
        """
        #: The term that was taken over last, until it is dropped.
        self.leading: LeadingTerm | None = None
        self._host = host
        self._candidate = candidate
        self._lead = lead
        self._reads_at = 0.0
        self._reports = TakeoverReports(candidate.election, patience=patience)
        self._unread = Failures(
            f"Election {candidate.election!r}: beat can't read its schedule, so periodic tasks are NOT sent"
        )

    def current(self) -> LeadingTerm | None:
        """Return the term that may send, None on a standby; take over if it is a new one."""
        term = self._candidate.term
        if term is None:
            return None
        if self.leading is None or self.leading.term != term:
            self.leading = None
            if self._host.monotonic() >= self._reads_at:
                self._begin(term)
        return self.leading

    def drop(self, reason: Exception) -> None:
        """Send nothing until the ledger was opened again, by this term or a later one."""
        logger.warning("Election %r: beat stops sending: %s", self._candidate.election, reason)
        self.leading = None

    def wait(self, seconds: float) -> None:
        """Wait *seconds* at most for leadership."""
        if self._candidate.leading.is_set():
            # It leads without a ledger, or its trust has just ended: don't spin.
            self._candidate.not_leading.wait(seconds / 2)
        else:
            self._candidate.leading.wait(seconds)

    def _begin(self, term: Term) -> None:
        try:
            self.leading = self._lead(term)
        except Exception as error:  # noqa: BLE001  # a store may raise anything; it is asked again
            self._reports.failed(term.fencing_token, error, self._host.monotonic())
            return
        self._host.heap = None  # made anew by the next tick, with the last runs from the ledger
        try:
            self._host.begin_term()
        except Exception as error:  # noqa: BLE001  # the schedule's store does not answer; it is asked again
            self._unread.failed(error, self._host.monotonic())
            self._reads_at = self._host.monotonic() + self._host.read_again
            self.leading = None
            return
        logger.info("Election %r: beat sends from now on (token %d)", term.election, term.fencing_token)
