"""What makes any scheduler send only while it leads, each tick once, and forget none."""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from itertools import takewhile
from typing import Any

from celery.utils.nodenames import gethostname

from celery_leader.beat.catch_up import CatchUp
from celery_leader.beat.claims import Claims
from celery_leader.beat.farewell import Farewell
from celery_leader.beat.leading import LeadingTerm
from celery_leader.beat.outbox import Outbox, TickCounts
from celery_leader.beat.reports import Failures, TakeoverReports
from celery_leader.beat.runs import Planner
from celery_leader.beat.sender import SenderMixin
from celery_leader.beat.termination import Termination
from celery_leader.election import Term
from celery_leader.exceptions import ConfigurationError, LeadershipLost, StoreUnavailable
from celery_leader.leadership.campaign import Campaign, Candidate, backend_of, check_backend
from celery_leader.refusal import StartRefused
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

#: How long (seconds) a standby waits for leadership in one tick. Celery takes a beat for dead that ticks too rarely.
STANDBY_WAIT = 1.0
#: What a project may override in the base only: a claim comes before it.
_BELOW = ("apply_entry", "is_due", "populate_heap", "reserve")


class LeaderMixin(SenderMixin):
    """Makes any scheduler send only while its process leads.

    ``tick`` is the gate: a standby's reads and writes nothing. While it leads, the base ticks as it does by itself, and
    each run is claimed in the ledger before it is sent (see :class:`SenderMixin`).
    """

    #: Whether the base writes something down in ``sync``, which Celery's own does not; set by ``leader_scheduler``.
    has_to_write = False
    #: How long (seconds) a leader waits that could not read its schedule, besides a standby's wait.
    read_again = 0.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse what a class of a project overrides where it would not be asked, or would send before a claim.

        Raises:
            ConfigurationError: Such a method stands above those of this package instead of in the base.
        """
        super().__init_subclass__(**kwargs)
        above = takewhile(lambda kind: not kind.__module__.startswith("celery_leader."), cls.__mro__)
        if names := sorted({name for kind in above for name in _BELOW if name in vars(kind)}):
            raise ConfigurationError(
                f"{cls.__qualname__} overrides {', '.join(names)} of a scheduler that follows the leader, so messages "
                "would be lost. Override it in a subclass of celery.beat.Scheduler (or django-celery-beat's, …), and "
                "make that one follow the leader by celery_leader.beat.scheduler.leader_scheduler()."
            )

    def __init__(self, app: Any, *args: Any, lazy: bool = False, campaign: Campaign | None = None, **kwargs: Any):
        """Prepare; a *lazy* scheduler is only asked for its description.

        Args:
            app: The Celery app.
            *args: For the base scheduler.
            lazy: No side effects.
            campaign: The worker's, for a beat inside one. A beat of its own contends by itself when omitted.
            **kwargs: For the base scheduler.

        Raises:
            StartRefused: A setting is wrong, or the store can't be used.
        """
        #: Whether a tick of the leader is under way.
        self.is_sending = False
        #: What became of ticks so far.
        self.counts = TickCounts()
        self._leading: LeadingTerm | None = None
        self._reads_at = 0.0
        self._farewell = Farewell(has_to_write=self.has_to_write, now=self._monotonic)
        self._own_campaign: Campaign | None = None
        self._termination: Termination | None = None
        try:
            settings = LeaderSettings.from_app(app)
            if lazy:
                check_backend(backend_of(settings, app.main))  # celery beat asks for the banner first: refuse before it
            elif campaign is None:
                campaign = self._own_campaign = _standalone_campaign(app, settings)
        except ConfigurationError as error:
            raise StartRefused(str(error)) from error
        self._settings = settings
        self.io_timeout = settings.io_timeout
        self._election = settings.beat_election
        self._candidate: Candidate | None = campaign.candidates[self._election] if campaign else None
        patience = settings.election(self._election, identity="-").renew_deadline
        self._takeover_reports = TakeoverReports(self._election, patience=patience)
        election = f"Election {self._election!r}"
        self._unread = Failures(f"{election}: beat can't read its schedule, so periodic tasks are NOT sent")
        self._failed_ticks = Failures(f"{election}: a tick of the beat failed")
        self._not_put_away = Failures(f"{election}: beat could not put its schedule away")
        self._ledger = campaign.backend.ledger(self._election) if campaign else None
        self._planner = Planner(app.main or "", self._election, CatchUp.of(settings), self.due_time)
        if args:
            super().__init__(app, *args, lazy=lazy, **kwargs)
        else:  # as Celery does: some bases know their app by its name only
            super().__init__(app=app, lazy=lazy, **kwargs)
        if self._own_campaign:
            self._termination = Termination.install()
            self._own_campaign.start()

    # -- the gate ------------------------------------------------------------------------------------------------

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due if this process leads; see :meth:`celery.beat.Scheduler.tick`.

        Returns:
            Seconds to the next call: 0 on a standby, which has waited already.
        """
        self.is_sending = True  # set first, so that a caller that blocks ticks and then checks sees the truth
        try:
            with self._termination.held_back() if self._termination else contextlib.nullcontext():
                term = self._candidate.term if self._candidate else None
                if term is not None and self._lead(term):
                    return self._tick_as_leader(*args, **kwargs)
                if self._farewell.is_due() and self._trusts(self._leading):
                    self._do_sync()
        finally:
            self.is_sending = False
        self._stand_by()
        return 0

    @property
    def is_busy(self) -> bool:
        """Whether the lease must be kept.

        A tick is under way, the ledger lacks what the next leader has to know, or the base has something to write that
        it may only write while it leads.
        """
        outbox = self._outbox
        return self.is_sending or self._farewell.is_due() or (outbox is not None and outbox.claims.is_just_behind)

    def is_to_write(self) -> bool:
        """Return whether the base has something to write before the lease is given back; the next tick writes it."""
        return self._farewell.ask()

    def _stand_by(self) -> None:
        try:
            self.step_back()
        except Exception as error:  # noqa: BLE001  # a beat that ended would not stand by for anybody
            self._not_put_away.failed(error, self._monotonic())
        if self._candidate is None:
            return
        if self._candidate.leading.is_set():
            # Leads without a ledger, or trusts no more and is not told yet: don't spin.
            self._candidate.not_leading.wait(STANDBY_WAIT / 2)
        else:
            self._candidate.leading.wait(STANDBY_WAIT)

    def _lead(self, term: Term) -> bool:
        """Take over what earlier leaders left, once a term; return whether this one may send."""
        if self._leading and term == self._leading.term:
            return True
        self._leading = None
        if self._monotonic() < self._reads_at:
            return False
        try:
            claims = Claims(
                self._ledger,  # type: ignore[arg-type]  # there with a campaign
                term.fencing_token,
                self._monotonic,
                is_trusted=partial(self._is_trusted, term),
            )
        except Exception as error:  # noqa: BLE001  # whatever a store raises: it is asked again
            self._takeover_reports.failed(term.fencing_token, error, self._monotonic())
            return False
        outbox = Outbox(claims, may_send=self._may_send, send=self._send, counts=self.counts, now=self._monotonic)
        self._leading = LeadingTerm(term, outbox)
        self._heap = None  # made anew by the next tick, with the last runs from the ledger
        try:
            self.begin_term()
        except Exception as error:  # noqa: BLE001  # where the schedule is kept does not answer now; it is asked again
            self._unread.failed(error, self._monotonic())
            self._reads_at = self._monotonic() + self.read_again
            self._leading = None
            return False
        logger.info("Election %r: beat sends from now on (token %d)", self._election, term.fencing_token)
        return True

    def setup_schedule(self) -> None:
        """Install entries if this process leads: a standby must not, and a base tries to when it is made."""
        if self._leading:
            super().setup_schedule()

    def _tick_as_leader(self, *args: Any, **kwargs: Any) -> float:
        try:
            leading = self._leading
            if leading is None:
                return STANDBY_WAIT
            outbox = leading.outbox
            outbox.begin()
            self._deliver_again(outbox)
            if outbox.is_stuck:
                return STANDBY_WAIT
            delay = self._send_due(outbox, *args, **kwargs)
            self._write_back(leading)
            if self._farewell.is_due() or self.should_sync():
                self._do_sync()
        except (LeadershipLost, StoreUnavailable) as lost:
            self._stop_sending(lost)
            return STANDBY_WAIT / 2
        except Exception as error:  # noqa: BLE001  # the next may not, and a beat that ended would send nothing for ever
            self._failed_ticks.failed(error, self._monotonic())
            self._heap = None
            return STANDBY_WAIT
        return min(delay, STANDBY_WAIT)  # an earlier leader's claims, or a lost ledger, must not wait for the next tick

    def _write_back(self, leading: LeadingTerm) -> None:
        """Write what the ledger lacks: because it did not answer, or because it lost its data."""
        claims = leading.claims
        claims.catch_up()
        claims.remind()
        if self._monotonic() >= leading.probes_at:
            leading.probes_at = self._monotonic() + self._settings.lease_duration
            claims.probe()
            self.warn_of_the_future(claims)

    # -- the end -------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Write the schedule back, on the leader only; see :meth:`celery.beat.Scheduler.sync`.

        Also when the process is about to end and may send no more: it has the lease until this is done.
        """
        if self._trusts(self._leading):
            super().sync()

    def _do_sync(self) -> None:
        try:
            super()._do_sync()
        finally:
            self._farewell.is_done()

    def close(self) -> None:
        """Stop sending and give the lease back; may be called twice."""
        connection = self.__dict__.pop("connection", None)  # Celery 5.7 closes it first, and waits if the broker hangs
        self.__dict__.pop("producer", None)
        try:
            super().close()
        except Exception:  # the lease is given back in any case
            logger.exception("Election %r: beat could not close its schedule", self._election)
        if self._leading and self._trusts(self._leading):
            with contextlib.suppress(LeadershipLost, StoreUnavailable):  # the next leader finds what is there
                self._leading.claims.flush()
        self._leading = None
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
    if settings.backend.startswith("memory:"):
        logger.warning("leader_backend is memory://, so this beat keeps its election in its own memory: any other beat "
                       "leads as well, and sends every tick again. Set leader_backend to a store that all beats reach: "
                       "redis://… or django-db://<alias>.")  # fmt: skip
    check_backend(backend := backend_of(settings, app.main))
    return Campaign(settings, [settings.beat_election], backend=backend, nodename=f"beat@{gethostname()}")
