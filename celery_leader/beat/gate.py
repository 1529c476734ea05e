"""The gate: any scheduler sends only while it leads, each tick once, and forgets none."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from itertools import takewhile
from typing import Any, ClassVar

from celery.beat import SchedulingError

from celery_leader.beat.base import Base, Farewell
from celery_leader.beat.batch import Batch, make_heap
from celery_leader.beat.catch_up import CatchUp
from celery_leader.beat.connection import lean, open_connection
from celery_leader.beat.due_times import Entry, StoppedClocks
from celery_leader.beat.entries import Entries, Traits
from celery_leader.beat.leading import LeadingTerm
from celery_leader.beat.outbox import Outcome, TickCounts
from celery_leader.beat.publisher import Publisher
from celery_leader.beat.reports import Failures
from celery_leader.beat.runs import Planner
from celery_leader.beat.standalone import Standalone
from celery_leader.beat.takeover import Takeover
from celery_leader.election import Term
from celery_leader.exceptions import ConfigurationError, LeadershipLost, StoreUnavailable
from celery_leader.leadership.campaign import Campaign, backend_of, check_backend
from celery_leader.refusal import StartRefused
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

#: How long (seconds) a standby waits for leadership in one tick. Celery takes a beat for dead that ticks too rarely.
STANDBY_WAIT = 1.0
#: Methods that a project may override in the base only: ours claim before the base acts, so they must be outermost.
_BELOW = ("apply_entry", "is_due", "populate_heap", "reserve")


class LeaderMixin(Base):
    """Makes any scheduler send only while its process leads.

    ``tick`` is the gate: a standby's reads and writes nothing. While it leads, the base ticks as it does by itself, and
    each run is claimed in the ledger before it is sent (see :class:`LeadingTerm`). The base's methods that other
    programs wrap or override are called as ever: ``tick`` once a message, ``is_due``, ``reserve``, ``apply_entry``,
    ``apply_async``, ``send_task``. Runs that are due together are claimed together (see :class:`Batch`); a base that
    ticks in its own way has each run claimed when it sends it.
    """

    #: The base's own ways; set by ``leader_scheduler``.
    traits: ClassVar[Traits]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse methods that a project overrides in a place where they are skipped, or send before a claim.

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
        """Prepare. Celery asks a *lazy* scheduler for its description only.

        Args:
            app: The Celery app.
            *args: For the base scheduler.
            lazy: No side effects.
            campaign: The worker's, for a beat inside one. A standalone beat has none, and contends by itself.
            **kwargs: For the base scheduler.

        Raises:
            StartRefused: A setting is wrong, or the store can't be used.
        """
        #: Whether a tick is under way.
        self.is_ticking = False
        #: How many due runs were claimed, sent and missed so far.
        self.counts = TickCounts()
        self._farewell = Farewell(self.counts, has_to_write=self.traits.has_to_write, now=self.monotonic)
        self._takeover: Takeover | None = None
        self._standalone: Standalone | None = None
        try:
            settings = campaign.settings if campaign else LeaderSettings.from_app(app)
            if lazy:
                check_backend(backend_of(settings, app.main))  # celery beat asks for the banner first: refuse before it
            elif campaign is None:
                self._standalone = Standalone(app, settings, cut=self.cut)
                campaign = self._standalone.campaign
        except ConfigurationError as error:
            raise StartRefused(str(error)) from error
        self._settings = settings
        self._election = settings.beat_election
        self._failed_ticks = Failures(f"Election {self._election!r}: a tick of the beat failed")
        self._not_put_away = Failures(f"Election {self._election!r}: beat could not put its schedule away")
        planner = Planner(app.main or "", self._election, CatchUp.of(settings), self.due_time)
        self._entries = Entries(self, self.traits, planner, is_due=lambda entry: super(LeaderMixin, self).is_due(entry))
        self._publisher = Publisher(self)
        if campaign:
            self._candidate = campaign.candidates[self._election]
            self._ledger = campaign.backend.ledger(self._election)
            self._takeover = Takeover(self, self._candidate, self._lead)
        if args:
            super().__init__(app, *args, lazy=lazy, **kwargs)
        else:  # as Celery does: some bases know their app by its name only
            super().__init__(app=app, lazy=lazy, **kwargs)
        if self._standalone:
            self._standalone.start()

    # -- the gate ------------------------------------------------------------------------------------------------

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send the due runs if this process leads; see :meth:`celery.beat.Scheduler.tick`.

        Returns:
            Seconds to the next call: 0 on a standby, which has waited already.
        """
        self.is_ticking = True  # first: the election blocks new ticks, and then asks is_busy
        try:
            with self._standalone.signals_held_back() if self._standalone else contextlib.nullcontext():
                if self._takeover and (leading := self._takeover.current()):
                    return self._tick_as_leader(leading, partial(super().tick, *args, **kwargs))
                if self._farewell.is_due() and self.trusts:
                    self._do_sync()
        finally:
            self.is_ticking = False
        self._stand_by()
        return 0

    def _tick_as_leader(self, leading: LeadingTerm, base_tick: Callable[[], float]) -> float:
        try:
            delay = leading.tick(base_tick)
            if delay is None:
                return STANDBY_WAIT
            if self._farewell.is_due() or self.should_sync():
                self._do_sync()
        except (LeadershipLost, StoreUnavailable) as lost:
            self._stop_sending(lost)
            return STANDBY_WAIT / 2
        except Exception as error:  # noqa: BLE001  # the next may not, and a beat that ended would send nothing for ever
            self._failed_ticks.failed(error, self.monotonic())
            self.heap = None
            return STANDBY_WAIT
        return min(delay, STANDBY_WAIT)  # an earlier leader's claims, or a lost ledger, must not wait for the next tick

    def _stand_by(self) -> None:
        try:
            self.step_back()
        except Exception as error:  # noqa: BLE001  # a beat that ended would stand by no more
            self._not_put_away.failed(error, self.monotonic())
        if self._takeover:
            self._takeover.wait(STANDBY_WAIT)

    def _lead(self, term: Term) -> LeadingTerm:
        return LeadingTerm(
            term,
            self,
            self._ledger,
            settings=self._settings,
            entries=self._entries,
            publisher=self._publisher,
            counts=self.counts,
            is_trusted=lambda: self._candidate.elector.term == term,
            is_ending=lambda: self.is_ending,
        )

    @property
    def _leading(self) -> LeadingTerm | None:
        return self._takeover.taken if self._takeover else None

    def _stop_sending(self, reason: Exception) -> None:
        if self._takeover:
            self._takeover.drop(reason)

    @property
    def is_ending(self) -> bool:
        """Whether the process is about to end."""
        return self._candidate.shared_trust.is_closing() or bool(self._standalone and self._standalone.is_ending)

    # -- for the election ----------------------------------------------------------------------------------------

    @property
    def trusts(self) -> bool:
        """Whether the term that took over last is still trusted."""
        return self._leading is not None and self._leading.is_trusted()

    @property
    def is_busy(self) -> bool:
        """Whether the lease must be kept.

        A tick is under way, the ledger lacks claims that the next leader has to know, or the base has something to
        write that it may only write while it leads.
        """
        leading = self._leading
        return self.is_ticking or self._farewell.is_due() or (leading is not None and leading.claims.is_just_behind)

    def is_to_write(self) -> bool:
        """Return whether the base has something to write before the lease is released; the next tick writes it."""
        return self._farewell.ask()

    def cut(self) -> None:
        """Fail a wait for the broker: a stopping beat must not keep the lease for it. Any thread may call it."""
        self._publisher.cut()

    # -- Celery's methods: due entries ---------------------------------------------------------------------------

    @property
    def _batch(self) -> Batch | None:
        return self._leading.batch if self._leading else None

    def is_due(self, entry: Entry) -> Any:
        """Return whether to send *entry* now; see :meth:`celery.beat.Scheduler.is_due`.

        An entry that is due is claimed first, with all others that are.
        """
        return self._batch.is_due(entry) if self._batch else super().is_due(entry)

    def reserve(self, entry: Entry) -> Any:
        """See :meth:`celery.beat.Scheduler.reserve`; the last run is the one that was claimed."""
        advanced = super().reserve(entry) if self._entries.makes_new(entry) else entry
        if self._batch:
            self._batch.advance(entry, advanced)
        return advanced

    def _when(self, entry: Entry, next_time_to_run: float, *args: Any, **kwargs: Any) -> Any:
        if self._batch:
            return self._batch.when(entry, next_time_to_run)
        return super()._when(entry, next_time_to_run, *args, **kwargs)

    def populate_heap(self, *args: Any, **kwargs: Any) -> None:
        """Take the last runs from the ledger, then see :meth:`celery.beat.Scheduler.populate_heap`."""
        if self._leading:
            schedule = self.schedule
            self._entries.know(self._leading.claims, schedule.values())
            self._entries.prune(self._leading.claims, schedule)
        if self.traits.keeps_its_schedule:
            self._entries.have_changed()
        if not self.traits.has_celerys_heap:
            super().populate_heap(*args, **kwargs)
            return
        with StoppedClocks(self._batch.now if self._batch else self.now()) as clocks:
            self.heap = make_heap(self._sendable(), partial(self._entries.look, clocks), self._when)

    def _sendable(self) -> Iterable[Any]:
        """Return the entries that may be sent: those whose ticks can be claimed before."""
        entries: Iterable[Entry] = self.schedule.values()
        return [entry for entry in entries if self._leading is None or self._leading.claims.can_keep(entry.name)]

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Return whether no entry came, went or changed; see :meth:`celery.beat.Scheduler.schedules_equal`.

        While claimed runs are sent, nothing is compared. A base that keeps another mapping compares it itself.
        """
        if self._batch and self._batch.is_under_way:
            return True
        if not self.traits.keeps_its_schedule or new_schedules is not self.schedule:
            return bool(super().schedules_equal(old_schedules, new_schedules))
        return not self._entries.have_changed()

    def add(self, **kwargs: Any) -> Any:
        """See :meth:`celery.beat.Scheduler.add`."""
        self._entries.note_edit()
        return super().add(**kwargs)

    def update_from_dict(self, dict_: Any) -> None:
        """See :meth:`celery.beat.Scheduler.update_from_dict`."""
        self._entries.note_edit()
        super().update_from_dict(dict_)

    def merge_inplace(self, b: Any) -> None:
        """See :meth:`celery.beat.Scheduler.merge_inplace`."""
        self._entries.note_edit()
        super().merge_inplace(b)

    def setup_schedule(self) -> None:
        """Install entries if this process leads: a standby must not, and a base tries to when it is made."""
        if self._leading:
            super().setup_schedule()

    # -- Celery's methods: sending -------------------------------------------------------------------------------

    def apply_entry(self, entry: Entry, producer: Any = None) -> None:
        """Have the base send the run of *entry* that is due; see :meth:`celery.beat.Scheduler.apply_entry`."""
        if self._leading and _has_runs(entry):
            self._leading.apply_entry(entry, producer)
        else:
            super().apply_entry(entry, producer=producer)  # meets apply_async

    def apply_async(self, entry: Entry, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Publish a message of the run that is being sent; see :meth:`celery.beat.Scheduler.apply_async`.

        While no run of *entry* is sent (a base calls this by itself), it claims the due run, sends and confirms it.

        Returns:
            What the base returns; None when there was nothing to send.

        Raises:
            SchedulingError: This process does not lead, or the message could not be published.
        """
        leading, sending = self._leading, self._publisher.sending
        publish = partial(super().apply_async, entry, advance=advance, **kwargs)
        if leading is None or not leading.may_send():
            error = SchedulingError(f"{entry.name}: this process does not lead {self._election!r} any more")
            if sending:
                sending.failed(error, Outcome.ENDED)
            raise error
        if sending and sending.is_of(entry):
            return self._publisher.publish(sending, entry, producer, publish)
        if not _has_runs(entry):
            return publish(producer=producer)
        try:
            return leading.apply_alone(entry, advance=advance, **kwargs)
        except (LeadershipLost, StoreUnavailable) as lost:  # Celery would take it for a fault of the message
            self._stop_sending(lost)
            return None

    @cached_property
    def connection(self) -> Any:
        """The connection for publishing."""
        return open_connection(self.app, self._settings.io_timeout)

    @cached_property
    def producer(self) -> Any:
        """The producer for publishing; the first use opens the connection."""
        producer = super().producer
        return lean(producer) if producer else producer

    def _ensure_connected(self) -> Any:
        """Open the connection if it is not, with one more try; the base would try for an hour."""
        failed = self._publisher.connection_failed
        return self.connection.ensure_connection(failed, 1, interval_start=0, interval_step=0)

    # -- Celery's methods: the end -------------------------------------------------------------------------------

    def should_sync(self) -> bool:
        """Return False while a message is published: its entry has that message's options for the moment."""
        return self._publisher.sending is None and bool(super().should_sync())

    def sync(self) -> None:
        """Write the schedule back, on the leader only; see :meth:`celery.beat.Scheduler.sync`.

        Also when the process is about to end and may send no more: it has the lease until this is done.
        """
        if self.trusts:
            super().sync()

    def _do_sync(self) -> None:
        try:
            super()._do_sync()
        finally:
            self._farewell.done()

    def close(self) -> None:
        """Stop sending and release the lease; may be called twice."""
        connection = self.__dict__.pop("connection", None)  # Celery closes it first, and waits if the broker hangs
        self.__dict__.pop("producer", None)
        try:
            super().close()
        except Exception:  # the lease is released in any case
            logger.exception("Election %r: beat could not close its schedule", self._election)
        if self._leading and self.trusts:
            with contextlib.suppress(LeadershipLost, StoreUnavailable):  # the next leader finds the ledger as it is
                self._leading.claims.flush()
        if self._takeover:
            self._takeover.taken = None
            self._ledger.close()
        if self._standalone:
            self._standalone.stop()
        if connection:
            with contextlib.suppress(Exception):  # it may be broken
                connection.release()

    @property
    def info(self) -> str:
        """The lines that ``celery beat`` prints about its scheduler at the start."""
        return f"    . election -> {self._election}"


def _has_runs(entry: Any) -> bool:
    """Return whether *entry* is of a schedule; an entry made up for one message has nothing to claim."""
    return entry.name is not None and entry.schedule is not None
