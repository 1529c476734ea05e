"""What makes any scheduler send only while it leads, each tick once, and forget none."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import click
from celery.beat import SchedulingError
from celery.utils.nodenames import gethostname

from celery_leader.beat import heap
from celery_leader.beat.broker import PublisherMixin
from celery_leader.beat.catch_up import CatchUp
from celery_leader.beat.claims import BATCH, Claims
from celery_leader.beat.outbox import Outbox, Outcome, TickCounts
from celery_leader.beat.reports import TakeoverReports
from celery_leader.beat.runs import Planner, Run
from celery_leader.beat.schedule import ScheduleMixin
from celery_leader.beat.termination import Termination
from celery_leader.beat.ticks import StoppedClocks, utc
from celery_leader.election import Term
from celery_leader.election.limits import shown, shown_names, shown_value
from celery_leader.exceptions import ConfigurationError, LeadershipLost, LockUnavailable
from celery_leader.leadership.campaign import Campaign, Candidate, check_backend
from celery_leader.ledger import Claim
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

#: How long (seconds) a standby waits for leadership in one tick. Celery takes a beat for dead that ticks too rarely.
STANDBY_WAIT = 1.0
#: How long (seconds) a process that is to end goes on sending what it had claimed. The next leader sends the rest.
ENDING_TIME = 0.5


class BeatRefused(ConfigurationError, click.ClickException):
    """A configuration error in a beat that starts: its command line says the sentence and ends."""

    def __init__(self, message: str) -> None:
        """Carry *message* for both: the exception and the command line."""
        click.ClickException.__init__(self, message)


class LeaderMixin(ScheduleMixin, PublisherMixin):
    """Makes any scheduler send only while its process leads.

    ``tick`` is the gate: a standby's reads and writes nothing. ``populate_heap`` is where schedulers read the last
    runs: there they are taken from the ledger. A scheduler that uses Celery's heap has all that is due claimed, sent
    and confirmed together; one with a ``tick`` of its own sends by ``apply_async``, and has each tick claimed there.
    """

    #: Whether the base scheduler ticks, and makes its heap, as Celery's does; set by ``leader_scheduler``.
    uses_heap = True
    _heap: Any

    def __init__(self, app: Any, *args: Any, lazy: bool = False, campaign: Campaign | None = None, **kwargs: Any):
        """Prepare; a *lazy* scheduler is only asked for its description.

        Args:
            app: The Celery app.
            *args: For the base scheduler.
            lazy: No side effects.
            campaign: The worker's, for a beat inside one. A beat of its own contends by itself when omitted.
            **kwargs: For the base scheduler.

        Raises:
            BeatRefused: A setting is wrong, or the store can't be used.
        """
        #: Whether a tick of the leader is under way.
        self.is_sending = False
        #: What became of ticks so far.
        self.counts = TickCounts()
        self._outbox: Outbox | None = None
        self._term: Term | None = None
        self._ends_at: float | None = None
        self._probes_at = 0.0
        self._own_campaign: Campaign | None = None
        self._termination: Termination | None = None
        try:
            settings = LeaderSettings.from_app(app)
            if lazy:
                check_backend(settings, app.main)  # celery beat asks for the banner first: refuse before it
            elif campaign is None:
                campaign = self._own_campaign = _standalone_campaign(app, settings)
        except ConfigurationError as error:
            raise BeatRefused(str(error)) from error
        self._settings = settings
        self.io_timeout = settings.io_timeout
        self._election = settings.beat_election
        self._candidate: Candidate | None = campaign.candidates[self._election] if campaign else None
        patience = settings.election(self._election, identity="-").renew_deadline
        self._takeover_reports = TakeoverReports(self._election, patience=patience)
        self._ledger = campaign.backend.ledger(self._election) if campaign else None
        self._planner = Planner(app.main or "", self._election, CatchUp.of(settings), self.due_time)
        super().__init__(app, *args, lazy=lazy, **kwargs)
        if self._own_campaign:
            self._termination = Termination.install()
            self._own_campaign.start()

    # -- the gate ------------------------------------------------------------------------------------------------

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due if this process leads; see :meth:`celery.beat.Scheduler.tick`.

        Returns:
            Seconds to the next call: 0 on a standby, which has waited already.
        """
        self.is_sending = True  # before any question, so that who forbids ticks and then looks is not deceived
        try:
            with self._termination.held_back() if self._termination else contextlib.nullcontext():
                term = self._candidate.term if self._candidate else None
                if term is not None and self._lead(term):
                    return self._tick_as_leader(*args, **kwargs)
        finally:
            self.is_sending = False
        self._stand_by()
        return 0

    @property
    def is_busy(self) -> bool:
        """Whether the lease must be kept: a tick is under way, or its ledger lacks what the next leader has to know."""
        outbox = self._outbox
        return self.is_sending or (outbox is not None and outbox.claims.is_just_behind)

    def _stand_by(self) -> None:
        try:
            self.step_back()
        except Exception:  # a beat that ended would not stand by for anybody
            logger.exception("Election %r: beat could not put its schedule away", self._election)
        if self._candidate is None:
            return
        if self._candidate.leading.is_set():
            # Leads without a ledger, or trusts no more and is not told yet: don't spin.
            self._candidate.not_leading.wait(STANDBY_WAIT / 2)
        else:
            self._candidate.leading.wait(STANDBY_WAIT)

    def _lead(self, term: Term) -> bool:
        """Take over what earlier leaders left, once a term; return whether this one may send."""
        if term == self._term:
            return True
        self._term = self._outbox = None
        try:
            claims = Claims(
                self._ledger,  # type: ignore[arg-type]  # there with a campaign
                term.fencing_token,
                self._monotonic,
                is_trusted=partial(self._trusts, term),
            )
        except Exception as error:  # noqa: BLE001  # whatever a store raises: it is asked again
            self._takeover_reports.failed(term.fencing_token, error, self._monotonic())
            return False
        self._term = term
        self._is_broker_away = False  # what was so in an earlier term was told then
        self._outbox = Outbox(claims, may_send=self._may_send, send=self._send, counts=self.counts, now=self._monotonic)
        self._heap = None  # made anew by the next tick, with the last runs from the ledger
        try:
            self.begin_term()
        except Exception:  # where the schedule is kept does not answer now; it is asked again
            logger.exception("Election %r: beat can't read its schedule yet (token %d)",
                             self._election, term.fencing_token)  # fmt: skip
            self._term = self._outbox = None
            return False
        logger.info("Election %r: beat sends from now on (token %d)", self._election, term.fencing_token)
        return True

    def setup_schedule(self) -> None:
        """Leave the schedule alone until this process leads: a standby must not install its entries."""

    def _tick_as_leader(self, *args: Any, **kwargs: Any) -> float:
        try:
            outbox = self._outbox
            if outbox is None:
                return STANDBY_WAIT
            self._deliver_again(outbox)
            if outbox.is_stuck:
                return STANDBY_WAIT
            delay: float = self._tick_together(outbox) if self.uses_heap else super().tick(*args, **kwargs)
            self._write_back(outbox.claims)
            if self.should_sync():
                self._do_sync()
        except (LeadershipLost, LockUnavailable) as lost:
            self._stop_sending(lost)
            return STANDBY_WAIT / 2
        except Exception:  # one tick failed; the next may not, and a beat that ended would send nothing for ever
            logger.exception("Election %r: a tick of the beat failed", self._election)
            self._heap = None
            return STANDBY_WAIT
        return min(delay, STANDBY_WAIT)  # an earlier leader's claims, or a lost ledger, must not wait for the next tick

    def _write_back(self, claims: Claims) -> None:
        """Write what the ledger lacks: because it did not answer, or because it lost its data."""
        claims.catch_up()
        claims.remind()
        if self._monotonic() >= self._probes_at:
            self._probes_at = self._monotonic() + self._settings.lease_duration
            claims.probe()
            self.warn_of_the_future(claims)

    def _stop_sending(self, reason: Exception) -> None:
        """Send nothing until the ledger was opened again, by this term or a later one."""
        logger.warning("Election %r: beat stops sending: %s", self._election, reason)
        self._term = self._outbox = None

    # -- claim, send, confirm ------------------------------------------------------------------------------------

    def _tick_together(self, outbox: Outbox) -> float:
        """Do what :meth:`celery.beat.Scheduler.tick` does, for all entries that are due."""
        if self.has_new_schedule() or self._heap is None:
            self.populate_heap()
        now = self._now()
        with StoppedClocks(now) as clocks:  # for speed, too: the app's own clock is slow
            found = heap.take_due(self._heap, now.timestamp(), partial(self._look, clocks), most=BATCH)
            ours = self._claim(outbox, found, now)
        if ours is not None:
            outbox.deliver(ours)
            return STANDBY_WAIT if self._heap is None else 0  # what was refused may be refused again: don't spin
        wait = self._heap[0][0] - now.timestamp() if self._heap else self.max_interval
        return float(min(max(0.0, wait), self.max_interval))

    def _look(self, clocks: StoppedClocks, entry: Any) -> tuple[bool, float]:
        """Return whether *entry* is due, and in how many seconds to look again: earlier by a little, as Celery does."""
        try:
            clocks.stop(entry.schedule)
            is_due, delay = self.judge(entry, clocks.now, *self.is_due(entry))
        except Exception:  # it must not stop the others
            logger.exception("When %s is due next can't be told; looking again later", shown_value(entry.name))
            return False, self.max_interval
        if not isinstance(delay, (int, float)):
            return is_due, self.max_interval
        return is_due, self.adjust(delay) if is_due else delay

    def _claim(self, outbox: Outbox, found: Sequence[heap.Due], now: datetime) -> list[Claim] | None:
        """Claim the runs of the entries *found* and put these back on the heap.

        Returns:
            What is to be sent; None when nothing can be claimed now.
        """
        planned = [(due, run) for due in found if (run := self._planned(outbox.claims, due, now))]
        if not planned:
            return None
        accepted = outbox.claim([run.claim for _, run in planned])
        ours = [each for each, is_ours in zip(planned, accepted, strict=True) if is_ours]
        for due, run in ours:
            self._put_back(due, run, now)
        refused = [run for (_, run), is_ours in zip(planned, accepted, strict=True) if not is_ours]
        if refused := [run for run in refused if outbox.claims.can_keep(run.entry.name)]:
            self._was_refused(outbox, refused)
        return [run.claim for _, run in ours if not run.claim.sent]

    def _planned(self, claims: Claims, due: heap.Due, now: datetime) -> Run | None:
        """Return the run to claim; None, and look again later, where the one before waits or nothing can be told."""
        wait = STANDBY_WAIT
        if not claims.waits(due.entry.name):
            try:
                return self._planner.run(due.entry, now)
            except Exception:  # it must not stop the others
                logger.exception("The run of %s can't be told; looking again later", shown_value(due.entry.name))
                wait = self.max_interval
        heap.put(self._heap, now.timestamp() + wait, due.priority, due.entry)
        return None

    def _put_back(self, due: heap.Due, run: Run, now: datetime) -> None:
        """Advance the entry of a claimed run, and put it back on the heap."""
        advanced, delay = self._advance(run, now), due.delay
        if run.by_due_time and (following := self.due_time(advanced, now)):  # it may be due at once
            delay = max(0.0, (following - utc(now)).total_seconds())
        heap.put(self._heap, now.timestamp() + delay, due.priority, advanced)

    def _advance(self, run: Run, now: datetime) -> Any:
        if run.missed:
            self._count_missed(run)
        entry = run.entry if run.claim.sent else self.advance(run.entry)
        last_run = run.claim.claimed_at.astimezone(now.tzinfo) if run.by_due_time else now
        self.set_last_run(entry, last_run, run.claim.run_count)
        return entry

    def _count_missed(self, run: Run) -> None:
        self.counts.missed += run.missed
        logger.warning("Election %r: %d missed run%s of %s let go%s",
                       self._election, run.missed, "s" * (run.missed > 1), shown(run.entry.name),
                       "" if run.claim.sent else f"; the one due at {run.claim.tick.due_at} is sent")  # fmt: skip

    def _was_refused(self, outbox: Outbox, runs: Sequence[Run]) -> None:
        """Go on from what the ledger knows: somebody claimed these, or later ones, before."""
        logger.warning("Election %r: %d runs were claimed already (%s, due at %s, …); reading the ledger again",
                       self._election, len(runs), shown(runs[0].entry.name), runs[0].claim.tick.due_at)  # fmt: skip
        outbox.claims.reload()
        self._heap = None

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Claim the run of *entry* that is due, send it, confirm it: for bases with a ``tick`` of their own.

        Raises:
            SchedulingError: This process does not lead.
        """
        outbox = self._outbox
        if outbox is None or not self._may_send():
            raise SchedulingError(f"{entry.name}: this process does not lead {self._election!r} any more")
        if outbox.is_stuck or outbox.claims.waits(entry.name) or not outbox.claims.can_keep(entry.name):
            return  # a newer claim would take the place of the one that waits; what can't be claimed is not sent
        try:
            self._know(outbox.claims, [entry])
            now = self._now()
            run = self._planner.run(entry, now)
            if not outbox.claim([run.claim])[0]:
                if outbox.claims.can_keep(entry.name):
                    self._was_refused(outbox, [run])
                return
            if not run.claim.sent:
                outbox.deliver([run.claim])
            if advance:
                self._advance(run, now)
        except (LeadershipLost, LockUnavailable) as lost:  # Celery would take it for a fault of the message
            self._stop_sending(lost)

    def _trusts(self, term: Term | None) -> bool:
        return self._candidate is not None and term is not None and self._candidate.elector.term == term

    def _may_send(self) -> bool:
        """Return whether this term is still trusted, and there is time left if the process is to end."""
        if self._candidate is None or not self._trusts(self._term):
            return False
        is_ending = self._candidate.cell.is_closing() or (
            self._termination is not None and self._termination.is_pending
        )
        if self._termination is not None and self._termination.is_late:
            return False
        if not is_ending:
            self._ends_at = None  # a handler of the project's own may have ended nothing
        elif self._ends_at is None:
            self._ends_at = self._monotonic() + ENDING_TIME
        return self._ends_at is None or self._monotonic() < self._ends_at

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

    def _send(self, claim: Claim) -> Outcome:
        entry, term = self.find_entry(claim.tick.entry), self._term
        if entry is None or term is None:
            return Outcome.AWAY
        return self.publish_tick(entry, claim, term.fencing_token)

    # -- the schedule --------------------------------------------------------------------------------------------

    def populate_heap(self, *args: Any, **kwargs: Any) -> None:
        """Take the last runs from the ledger, then see :meth:`celery.beat.Scheduler.populate_heap`."""
        if self._outbox:
            schedule = self.schedule
            self._know(self._outbox.claims, schedule.values())
            self._prune(self._outbox.claims, schedule)
        if not self.uses_heap:
            super().populate_heap(*args, **kwargs)
            return
        now = self._now()
        with StoppedClocks(now) as clocks:
            self._heap = heap.make(self._sendable(), now.timestamp(), partial(self._look, clocks))

    def _sendable(self) -> Iterable[Any]:
        """Return the entries that may be sent: those whose ticks can be claimed before."""
        entries: Iterable[Any] = self.schedule.values()
        return [entry for entry in entries if self._outbox is None or self._outbox.claims.can_keep(entry.name)]

    def _monotonic(self) -> float:
        return time.monotonic()

    # -- the end -------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Write the schedule back, on the leader only; see :meth:`celery.beat.Scheduler.sync`."""
        if self._term is not None and self._candidate is not None and self._candidate.term == self._term:
            super().sync()

    def close(self) -> None:
        """Stop sending and give the lease back; may be called twice."""
        connection = self.__dict__.pop("connection", None)  # Celery 5.7 closes it first, and waits if the broker hangs
        self.__dict__.pop("producer", None)
        try:
            super().close()
        except Exception:  # the lease is given back in any case
            logger.exception("Election %r: beat could not close its schedule", self._election)
        if self._outbox and self._trusts(self._term):
            with contextlib.suppress(LeadershipLost, LockUnavailable):  # the next leader finds what is there
                self._outbox.claims.flush()
        self._term = self._outbox = None
        campaign, self._own_campaign = self._own_campaign, None
        if self._ledger:
            self._ledger.close()
        if campaign:
            campaign.stop()
        if connection:
            with contextlib.suppress(Exception):  # it may be broken
                connection.release()

    @property
    def info(self) -> str:
        """What ``celery beat`` prints of its scheduler at start."""
        return f"    . election -> {self._election}"


def _standalone_campaign(app: Any, settings: LeaderSettings) -> Campaign:
    if settings.beat:
        logger.warning("leader_beat is True, so the workers have beats: this one contends with them for %r, and while "
                       "it leads, tasks that are reserved for the leader wait. Set leader_beat = False, or start no "
                       "beat of its own.", settings.beat_election)  # fmt: skip
    check_backend(settings, app.main)
    return Campaign(settings, [settings.beat_election], nodename=f"beat@{gethostname()}", app_name=app.main)
