"""What stands before a base's methods while its process leads: each run is claimed before it is sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from celery.beat import SchedulingError

from celery_leader.beat import heap
from celery_leader.beat.batch import PAUSE, Batch
from celery_leader.beat.due_times import StoppedClocks
from celery_leader.beat.entries import ScheduleMixin
from celery_leader.beat.farewell import Farewell
from celery_leader.beat.leading import LeadingTerm
from celery_leader.beat.message import Sending
from celery_leader.beat.outbox import Outbox, Outcome, TickCounts
from celery_leader.beat.publisher import PublisherMixin
from celery_leader.beat.runs import Run
from celery_leader.election import Term
from celery_leader.election.limits import shown, shown_names
from celery_leader.exceptions import LeadershipLost, StoreUnavailable
from celery_leader.leadership.campaign import Candidate
from celery_leader.ledger import Claim
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

#: How long (seconds) a stopping process goes on sending what it had claimed. The next leader sends the rest.
ENDING_TIME = 0.5


class SenderMixin(ScheduleMixin, PublisherMixin):
    """Lets the base tick as it does by itself, and claims what it sends.

    Everything of the base that others wrap or override is called as ever: ``tick`` once a message, ``is_due``,
    ``reserve``, ``apply_entry``, ``apply_async``, ``send_task``. What is due together is claimed together (see
    :class:`Batch`); a base that ticks in its own way has each run claimed when it sends it.
    """

    #: Whether the base makes its heap as Celery does; set by ``leader_scheduler``.
    has_celerys_heap = True
    counts: TickCounts
    _heap: Any
    _batch: Batch | None = None
    _candidate: Candidate | None
    _settings: LeaderSettings
    _election: str
    _farewell: Farewell

    @property
    def _outbox(self) -> Outbox | None:
        return self._leading.outbox if self._leading else None

    def _stop_sending(self, reason: Exception) -> None:
        """Send nothing until the ledger was opened again, by this term or a later one."""
        logger.warning("Election %r: beat stops sending: %s", self._election, reason)
        self._leading = None

    def _send_due(self, outbox: Outbox, *args: Any, **kwargs: Any) -> float:
        """Let the base tick, once for each run that it claims with the first; return how long it wants to wait."""
        self.look_for_observers()
        with StoppedClocks(self._now()) as clocks:  # for speed, too: the app's own clock is slow
            batch = self._batch = Batch(self, outbox, self._planner, clocks)
            try:
                delay = float(super().tick(*args, **kwargs))
                while delay <= 0 and batch.show_next():
                    delay = float(super().tick(*args, **kwargs))
            finally:
                self._batch = None
                if not (is_whole := batch.end()):
                    self._heap = None
                outbox.confirm_sent()
                self._farewell.note(self.counts.sent)
        if batch.error:
            raise batch.error
        return delay if is_whole else max(delay, PAUSE)  # what was refused may be refused again: don't spin

    @property
    def heap(self) -> list[Any] | None:
        """The base's heap of entries, if it has one."""
        heap: list[Any] | None = self._heap
        return heap

    def look(self, clocks: StoppedClocks, entry: Any) -> tuple[bool, float]:
        """Return whether the base takes *entry* for due at *clocks*' moment, and in how many seconds to look again."""
        try:
            clocks.stop(entry.schedule)
            is_due, delay = self.judge(entry, clocks.now, *self.ask(entry))
        except Exception:  # noqa: BLE001  # logged there; it must not stop the others
            return self._is_due_failed(entry)
        return is_due, delay if isinstance(delay, (int, float)) else self.max_interval

    def is_due(self, entry: Any) -> Any:
        """Return whether to send *entry* now; see :meth:`celery.beat.Scheduler.is_due`.

        An entry that is due is claimed first, with all others that are.
        """
        return self._batch.is_due(entry) if self._batch else super().is_due(entry)

    def reserve(self, entry: Any) -> Any:
        """See :meth:`celery.beat.Scheduler.reserve`; the last run is the one that was claimed."""
        advanced = super().reserve(entry) if self.makes_new(entry) else entry
        if self._batch:
            self._batch.advance(entry, advanced)
        return advanced

    def _when(self, entry: Any, next_time_to_run: float, *args: Any, **kwargs: Any) -> Any:
        if self._batch:
            return self._batch.when(entry, next_time_to_run)
        return super()._when(entry, next_time_to_run, *args, **kwargs)

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """See :meth:`celery.beat.Scheduler.schedules_equal`; while claimed runs are sent, nothing is compared."""
        if self._batch and self._batch.is_under_way:
            return True
        return super().schedules_equal(old_schedules, new_schedules)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Have the base send the run of *entry* that is due; see :meth:`celery.beat.Scheduler.apply_entry`."""
        outbox = self._outbox
        if outbox is None or not _has_runs(entry):
            super().apply_entry(entry, producer=producer)  # meets apply_async
        elif (run := self._run_of(outbox, entry)) and not run.claim.sent:
            outbox.offer(run.claim, partial(self._apply, entry, run.claim, producer))

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Publish a message of the run that is being sent; see :meth:`celery.beat.Scheduler.apply_async`.

        Called by a base that has not claimed a run of *entry*, it claims the one that is due, sends and confirms it.

        Returns:
            What the base returns; None when there was nothing to send.

        Raises:
            SchedulingError: This process does not lead, or the message could not be published.
        """
        outbox, sending = self._outbox, self._sending
        if outbox is None or not self._may_send():
            error = SchedulingError(f"{entry.name}: this process does not lead {self._election!r} any more")
            if sending:
                sending.failed(error, Outcome.ENDED)
            raise error
        if sending and sending.is_of(entry):
            return self.publish(sending, entry, producer, advance=advance, **kwargs)
        if not _has_runs(entry):
            return super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        try:
            return self._apply_alone(outbox, entry, advance=advance, **kwargs)
        except (LeadershipLost, StoreUnavailable) as lost:  # Celery would take it for a fault of the message
            self._stop_sending(lost)
            return None

    def _apply_alone(self, outbox: Outbox, entry: Any, *, advance: bool, **kwargs: Any) -> Any:
        """Claim and send the run of *entry* for a base that calls ``apply_async`` by itself."""
        run = self._run_of(outbox, entry)
        if run is None:
            return None
        sent: list[Sending] = []

        def send() -> Outcome:
            sent.append(self._send_run(run.claim, lambda: self.apply_async(entry, advance=False, **kwargs)))
            return sent[0].outcome

        if not run.claim.sent and self.can_send(run.claim):
            outbox.offer(run.claim, send)
        if advance:
            self._advance(run)
        if not self._batch:
            outbox.confirm_sent()
        if sent:
            return sent[0].raise_or_return()
        if run.claim.sent:
            return None
        raise SchedulingError(f"{entry.name} stays claimed: it can't be sent now")

    def _run_of(self, outbox: Outbox, entry: Any) -> Run | None:
        """Return the run of *entry* to be sent now, which is claimed; None when there is none to claim."""
        if run := self._batch and self._batch.take(entry):
            return run
        if outbox.is_stuck or outbox.claims.waits(entry.name) or not outbox.claims.can_keep(entry.name):
            return None  # a newer claim would take the place of the one that waits; what can't be claimed is not sent
        self._know(outbox.claims, [entry])
        run = self._planner.run(entry, self._now())
        if not outbox.claim([run.claim])[0]:
            if outbox.claims.can_keep(entry.name):
                self.was_refused([run])
                self._heap = None
            return None
        self.count_missed([run])
        return run

    def _advance(self, run: Run) -> Any:
        """Return the entry of *run*, which is claimed, as it is from then on."""
        entry = run.entry if run.claim.sent else self.reserve(run.entry)
        self.set_last_run(entry, run.last_run_at, run.claim.run_count)
        return entry

    def count_missed(self, runs: Sequence[Run]) -> None:
        """Count and log the missed runs that the claimed *runs* let go. After an outage all entries have some."""
        behind = [run for run in runs if run.missed]
        if not behind:
            return
        missed = sum(run.missed for run in behind)
        self.counts.missed += missed
        claim = behind[0].claim
        sent = f"; the one due at {claim.tick.due_at} is sent" if len(behind) == 1 and not claim.sent else ""
        logger.warning("Election %r: %d missed run%s of %s let go%s", self._election, missed, "s" * (missed > 1),
                       shown_names([run.entry.name for run in behind]), sent)  # fmt: skip

    def was_refused(self, runs: Sequence[Run]) -> None:
        """Read the ledger again: somebody claimed *runs*, or later ones, before."""
        logger.warning("Election %r: %d runs were claimed already (%s, due at %s, …); reading the ledger again",
                       self._election, len(runs), shown(runs[0].entry.name), runs[0].claim.tick.due_at)  # fmt: skip
        if self._leading:
            self._leading.claims.reload()

    def _trusts(self, leading: LeadingTerm | None) -> bool:
        return leading is not None and self._is_trusted(leading.term)

    def _is_trusted(self, term: Term) -> bool:
        return self._candidate is not None and self._candidate.elector.term == term

    def _may_send(self) -> bool:
        """Return whether this term is still trusted, and there is time left if the process is to end."""
        leading = self._leading
        if self._candidate is None or leading is None or not self._trusts(leading):
            return False
        is_ending = self._candidate.shared_trust.is_closing() or (
            self._termination is not None and self._termination.is_pending
        )
        if self._termination is not None and self._termination.is_late:
            return False
        if not is_ending:
            leading.ends_at = None  # a handler of the project's own may have ended nothing
        elif leading.ends_at is None:
            leading.ends_at = self._monotonic() + ENDING_TIME
        return leading.ends_at is None or self._monotonic() < leading.ends_at

    def _deliver_again(self, outbox: Outbox) -> None:
        unsent = outbox.claims.unsent()
        if not unsent:
            return
        gone = [claim.tick.entry for claim in unsent if self.find_entry(claim.tick.entry) is None]
        if gone:  # other code may know them: a deployment is under way, or will be rolled back
            logger.warning("Election %r: claimed runs of %s can't be sent here: they are not in this schedule",
                           self._election, shown_names(gone))  # fmt: skip
            outbox.claims.set_aside(gone)
        logger.debug("Election %r: sending %d runs that were claimed and not confirmed", self._election, len(unsent))
        outbox.deliver_again(newest_first=self._settings.beat_catch_up != "all")

    def can_send(self, claim: Claim) -> bool:
        """Return whether this process may send the run of *claim*, and reaches its broker."""
        if not self._may_send():
            return False
        if self._outbox and not self.is_reachable(claim):
            self._outbox.is_stuck = True
            return False
        return True

    def _send(self, claim: Claim) -> Outcome:
        """Send a run that was claimed before."""
        entry = self.find_entry(claim.tick.entry)
        if entry is None or not self.can_send(claim):
            return Outcome.AWAY
        return self._apply(entry, claim, self.producer)

    def _apply(self, entry: Any, claim: Claim, producer: Any) -> Outcome:
        return self._send_run(claim, partial(self.apply_as_base, entry, producer)).outcome

    def apply_as_base(self, entry: Any, producer: Any) -> None:
        """Have the base send a run of *entry* as its own ``tick`` does."""
        super().apply_entry(entry, producer=producer)

    def _send_run(self, claim: Claim, send: Callable[[], Any]) -> Sending:
        token = self._leading.term.fencing_token if self._leading else 0
        return self.send_run(claim, token, send)

    def populate_heap(self, *args: Any, **kwargs: Any) -> None:
        """Take the last runs from the ledger, then see :meth:`celery.beat.Scheduler.populate_heap`."""
        if self._leading:
            schedule = self.schedule
            self._know(self._leading.claims, schedule.values())
            self._prune(self._leading.claims, schedule)
        if self.keeps_its_schedule:
            self._notes_new_schedule()
        if not self.has_celerys_heap:
            super().populate_heap(*args, **kwargs)
            return
        now = self._batch.now if self._batch else self._now()
        with StoppedClocks(now) as clocks:
            self._heap = heap.make(self._sendable(), partial(self.look, clocks), self._when)

    def _sendable(self) -> Iterable[Any]:
        """Return the entries that may be sent: those whose ticks can be claimed before."""
        entries: Iterable[Any] = self.schedule.values()
        return [entry for entry in entries if self._leading is None or self._leading.claims.can_keep(entry.name)]


def _has_runs(entry: Any) -> bool:
    """Return whether *entry* is of a schedule; one that somebody made up to send a message has nothing to claim."""
    return entry.name is not None and entry.schedule is not None
