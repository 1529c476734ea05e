"""A term of the beat's leadership: due runs are claimed, sent and confirmed, and nothing outlives the term."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from celery.beat import SchedulingError

from celery_leader.beat.base import Base
from celery_leader.beat.batch import PAUSE, Batch
from celery_leader.beat.claims import Claims
from celery_leader.beat.due_times import Entry, StoppedClocks
from celery_leader.beat.entries import Entries
from celery_leader.beat.outbox import Outbox, Outcome, TickCounts
from celery_leader.beat.publisher import Publisher, Sending
from celery_leader.beat.runs import Run
from celery_leader.election import Term
from celery_leader.election.alarm import Alarm
from celery_leader.election.limits import shown, shown_names
from celery_leader.ledger import Claim, Ledger
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

#: How long (seconds) a stopping process goes on sending its claimed runs. The next leader sends the rest.
ENDING_TIME = 0.5


class LeadingTerm:
    """The state of a beat that leads: made at the takeover, dropped at the loss, never carried into another term."""

    def __init__(
        self,
        term: Term,
        scheduler: Base,
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
            scheduler: The scheduler.
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
        now = scheduler.monotonic
        self.claims = Claims(ledger, term.fencing_token, now, is_trusted=is_trusted)
        self.outbox = Outbox(self.claims, may_send=self.may_send, send=self._send, counts=counts, now=now)
        self.batch: Batch | None = None
        self._scheduler = scheduler
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
        delay = self._scheduler.round_ended(self._send_due(base_tick))
        self._write_back()
        return delay

    def _deliver_again(self) -> None:
        unsent = self.claims.unsent()
        if not unsent:
            return
        gone = [claim.tick.entry for claim in unsent if self._scheduler.find_entry(claim.tick.entry) is None]
        if gone:  # other code may know them: a deployment is under way, or will be rolled back
            logger.warning("Election %r: claimed runs of %s can't be sent here: they are not in this schedule",
                           self.term.election, shown_names(gone))  # fmt: skip
            self.claims.set_aside(gone)
        logger.debug("Election %r: sending %d runs that were claimed and not confirmed",
                     self.term.election, len(unsent))  # fmt: skip
        self.outbox.deliver_again(newest_first=self._settings.beat_catch_up != "all")

    def _send_due(self, base_tick: Callable[[], float]) -> float:
        """Let the base tick: the first call claims the due runs and sends the first, each further call sends the next.

        Returns:
            How long (seconds) the base wants to wait.
        """
        self._entries.allow_shortcuts()
        with StoppedClocks(self._scheduler.now()) as clocks:  # for speed, too: the app's own clock is slow
            batch = self.batch = Batch(
                self._scheduler,
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
                    self._scheduler.heap = None
                self.outbox.confirm_sent()
        if batch.error:
            raise batch.error
        return delay if is_whole else max(delay, PAUSE)  # a refused run may be refused again: don't spin

    def _write_back(self) -> None:
        """Write what the ledger lacks: because it did not answer, or because it lost its data."""
        self.claims.catch_up()
        self.claims.remind()
        if self._scheduler.monotonic() >= self._probes_at:
            self._probes_at = self._scheduler.monotonic() + self._settings.lease_duration
            self.claims.probe()
            self._entries.warn_of_the_future(self.claims)

    # -- one run -------------------------------------------------------------------------------------------------

    def apply_entry(self, entry: Entry, producer: Any) -> None:
        """Have the base send the run of *entry* that is due."""
        if (run := self._run_of(entry)) and not run.claim.sent:
            self._offer(run.claim, partial(self._scheduler.apply_as_base, entry, producer))

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
        sending: Sending | None = None
        if not run.claim.sent and self.can_send(run.claim):
            sending = self._offer(run.claim, partial(self._scheduler.apply_async, entry, advance=False, **kwargs))
        if advance:
            self._scheduler.advance(run)
        if not self.batch:
            self.outbox.confirm_sent()
        if sending:
            return sending.raise_or_return()
        if run.claim.sent:
            return None
        raise SchedulingError(f"{entry.name} stays claimed: it can't be sent now")

    def _run_of(self, entry: Entry) -> Run | None:
        """Return the run of *entry* to be sent now, which is claimed; None when there is none to claim."""
        if run := self.batch and self.batch.take(entry):
            return run
        if self.outbox.is_stuck or not self.claims.may_claim(entry.name):
            return None  # a newer claim would replace the one that waits; a run that can't be claimed is not sent
        self._entries.know(self.claims, [entry])
        run = self._entries.planner.run(entry, self._scheduler.now())
        if self.claim([run])[0]:
            return run
        if self.claims.can_keep(entry.name):
            self._scheduler.heap = None
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
            self._ends_at, self._publisher.was_cut = None, False  # the project's own signal handler may go on
            return True
        self._ends_at = self._ends_at or self._scheduler.monotonic() + ENDING_TIME
        return self._scheduler.monotonic() < self._ends_at and not self._publisher.was_cut

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
        entry = self._scheduler.find_entry(claim.tick.entry)
        if entry is None or not self.can_send(claim):
            return Outcome.AWAY
        return self._hand_over(claim, partial(self._scheduler.apply_as_base, entry, self._scheduler.producer)).outcome

    def _offer(self, claim: Claim, send: Callable[[], Any]) -> Sending:
        """Let *send*, a method of the base, send the run of *claim*, and note the outcome."""
        sending = self._hand_over(claim, send)
        self.outbox.settle(claim, sending.outcome)
        return sending

    def _hand_over(self, claim: Claim, send: Callable[[], Any]) -> Sending:
        return self._publisher.send(claim, self.term.fencing_token, send)
