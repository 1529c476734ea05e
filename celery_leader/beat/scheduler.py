"""Schedulers that send only while they lead, each tick once, and forget none."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click
from celery.beat import Scheduler, SchedulingError
from celery.utils.imports import symbol_by_name
from celery.utils.nodenames import gethostname
from kombu.exceptions import OperationalError

from celery_leader.beat.claims import Claims
from celery_leader.beat.ticks import due_at, fingerprint, task_id
from celery_leader.election import Term
from celery_leader.exceptions import ConfigurationError, LeadershipLost, LockUnavailable
from celery_leader.leadership.campaign import Campaign, Candidate, check_backend
from celery_leader.ledger import Claim, Tick
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

#: How long (seconds) a standby waits for leadership in one tick. Celery takes a beat for dead that ticks too rarely.
STANDBY_WAIT = 1.0


class BeatRefused(ConfigurationError, click.ClickException):
    """A configuration error in a beat that starts: its command line says the sentence and ends."""

    def __init__(self, message: str) -> None:
        """Carry *message* for both: the exception and the command line."""
        click.ClickException.__init__(self, message)


class LeaderMixin(Scheduler if TYPE_CHECKING else object):  # type: ignore[misc]  # Celery has no types
    """Makes any scheduler send only while its process leads.

    ``tick`` is the gate: a standby's reads and writes nothing. ``apply_async`` is what every scheduler sends by: there
    the tick is claimed before, and confirmed after. ``populate_heap`` is where every scheduler reads the
    last runs: there they are taken from the ledger.
    """

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
        #: Whether a tick of the leader is under way; the lease must not be given back meanwhile.
        self.is_sending = False
        self._claims: Claims | None = None
        self._term: Term | None = None
        self._has_schedule = False
        self._reserved: dict[str, Any] = {}
        self._own_campaign: Campaign | None = None
        self._termination: _Termination | None = None
        try:
            settings = LeaderSettings.from_app(app)
            if lazy:
                check_backend(settings, app.main)  # celery beat asks for the banner first: refuse before it
            elif campaign is None:
                campaign = self._own_campaign = _standalone_campaign(app, settings)
        except ConfigurationError as error:
            raise BeatRefused(str(error)) from error
        self._election = settings.beat_election
        self._candidate: Candidate | None = campaign.candidates[self._election] if campaign else None
        self._ledger = campaign.backend.ledger(self._election) if campaign else None
        super().__init__(app, *args, lazy=lazy, **kwargs)
        if self._own_campaign:
            self._termination = _Termination.install()
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

    def _stand_by(self) -> None:
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
        self._term = self._claims = None
        try:
            self._claims = Claims(self._ledger, term.fencing_token)  # type: ignore[arg-type]  # there with a campaign
        except (LockUnavailable, LeadershipLost) as error:
            logger.warning("Election %r: beat can't take over yet (token %d): %s",
                           self._election, term.fencing_token, error)  # fmt: skip
            return False
        self._term = term
        self._read_schedule()
        logger.info("Election %r: beat sends from now on (token %d)", self._election, term.fencing_token)
        return True

    def _read_schedule(self) -> None:
        self._heap = None  # made anew by the next tick, with the last runs from the ledger
        if not self._has_schedule:
            self._has_schedule = True
            super().setup_schedule()

    def setup_schedule(self) -> None:
        """Leave the schedule alone until this process leads: a standby must not install its entries."""

    def _tick_as_leader(self, *args: Any, **kwargs: Any) -> float:
        try:
            if not self._send_unsent():
                return STANDBY_WAIT
            delay: float = super().tick(*args, **kwargs)
            if self._claims:
                self._claims.catch_up()
        except (LeadershipLost, LockUnavailable) as lost:
            self._stop_sending(lost)
            return STANDBY_WAIT / 2
        return min(delay, STANDBY_WAIT) if self._claims and self._claims.unsent() else delay

    def _stop_sending(self, reason: Exception) -> None:
        """Send nothing until the ledger was opened again, by this term or a later one."""
        logger.warning("Election %r: beat stops sending: %s", self._election, reason)
        self._term = self._claims = None

    # -- claim, send, confirm ------------------------------------------------------------------------------------

    def populate_heap(self, *args: Any, **kwargs: Any) -> None:
        """Take the last runs from the ledger, then see :meth:`celery.beat.Scheduler.populate_heap`."""
        if self._claims:
            unknown = [entry for entry in self.schedule.values() if not self._recall(entry)]
            self._claims.start_afresh(self._first_sight(entry) for entry in unknown)
        super().populate_heap(*args, **kwargs)

    def _recall(self, entry: Any) -> bool:
        """Set *entry* to its last run in the ledger; return whether there is one, of the same schedule."""
        claim = self._claims.get(entry.name) if self._claims else None
        if claim is None or claim.schedule != fingerprint(entry):
            return False
        # Celery before 5.7 reads the hours of a crontab in the time zone of the last run.
        entry.last_run_at = claim.claimed_at.astimezone(self.app.timezone)
        entry.total_run_count = claim.run_count
        return True

    def _first_sight(self, entry: Any) -> Claim:
        """Return the note that *entry* is known since now: later leaders count its period from here."""
        now = _utc(entry.last_run_at or self._now())
        tick = Tick(self._election, entry.name, now)
        return Claim(tick, "", entry.total_run_count or 0, now, fingerprint(entry), sent=True)

    def reserve(self, entry: Any) -> Any:
        """Advance *entry*; see :meth:`celery.beat.Scheduler.reserve`."""
        self._reserved[entry.name] = advanced = super().reserve(entry)
        return advanced

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Claim the tick of *entry* that is due, send it, confirm it.

        Raises:
            SchedulingError: It could not be sent. The tick stays claimed, and is sent later.
        """
        tick = Tick(self._election, entry.name, due_at(entry, self._now()))
        advanced = self.reserve(entry) if advance else self._reserved.pop(entry.name, entry)
        claims = self._claims
        if claims is None or self._candidate is None or self._candidate.term != self._term:
            raise SchedulingError(f"{entry.name}: this process does not lead {self._election!r} any more")
        claim = Claim(
            tick,
            task_id(self.app.main or "", tick),
            advanced.total_run_count or 1,
            _utc(advanced.last_run_at or self._now()),
            fingerprint(entry),
        )
        try:
            if claims.claim(claim):
                return self._send(entry, claim, producer, **kwargs)
            logger.warning("%s, due at %s, was claimed already; reading the ledger again", entry.name, tick.due_at)
            claims.reload()
            self._heap = None
        except (LeadershipLost, LockUnavailable) as lost:  # Celery would take it for a fault of the message
            self._stop_sending(lost)
        return None

    def _send(self, entry: Any, claim: Claim, producer: Any, **kwargs: Any) -> Any:
        try:
            with _options(entry, claim, self._term):
                result = super().apply_async(entry, producer=producer, advance=False, **kwargs)
        except SchedulingError as error:
            if not isinstance(error.__context__, self._broker_errors):  # it would fail for ever, and hold up the rest
                logger.error("%s, due at %s, can't be sent and is given up", entry.name, claim.tick.due_at)  # noqa: TRY400
                self._confirm(claim)
            raise
        self._confirm(claim)
        return result

    def _confirm(self, claim: Claim) -> None:
        if self._claims:
            self._claims.confirm(claim)

    def _send_unsent(self) -> bool:
        """Send, with the same ids, what was claimed and perhaps not sent: by an earlier leader or by this one.

        Returns:
            Whether all of it went out. If not, nothing newer is claimed either: it would take the place of what waits.
        """
        for claim in self._claims.unsent() if self._claims else ():
            entry = self.schedule.get(claim.tick.entry)
            if entry is None:
                self._claims.drop(claim.tick.entry)  # type: ignore[union-attr]  # it gave us the claim
                continue
            if self._candidate is None or self._candidate.term != self._term:
                return False
            logger.info("Sending the tick of %s due at %s, which was claimed and not confirmed",
                        claim.tick.entry, claim.tick.due_at)  # fmt: skip
            with contextlib.suppress(SchedulingError):  # is still unsent then, or was given up
                self._send(entry, claim, self.producer)
        return not (self._claims and self._claims.unsent())

    @cached_property
    def _broker_errors(self) -> tuple[type[BaseException], ...]:
        """What a broker that is away for now makes publishing raise."""
        connection = self.connection
        return (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)

    def _now(self) -> datetime:
        now: datetime = self.app.now()
        return now if now.tzinfo else now.replace(tzinfo=self.app.timezone)

    # -- the end -------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Write the schedule back, on the leader only; see :meth:`celery.beat.Scheduler.sync`."""
        if self._term is not None and self._candidate is not None and self._candidate.term == self._term:
            super().sync()

    def close(self) -> None:
        """Stop sending and give the lease back; may be called twice."""
        super().close()
        self._term = self._claims = None
        campaign, self._own_campaign = self._own_campaign, None
        if self._ledger:
            self._ledger.close()
        if campaign:
            campaign.stop()

    @property
    def info(self) -> str:
        """What ``celery beat`` prints of its scheduler at start."""
        return f"    . election -> {self._election}"


class _Termination:
    """Lets a tick end before SIGTERM or SIGINT ends the beat, so that what was claimed is also sent."""

    def __init__(self) -> None:
        self._ticking = False
        self._pending: tuple[int, Any] | None = None
        self._previous: dict[int, Any] = {}

    @classmethod
    def install(cls) -> _Termination | None:
        """Take the place of the process's handlers; None in a thread that may not."""
        if threading.current_thread() is not threading.main_thread():
            return None
        termination = cls()
        for number in (signal.SIGTERM, signal.SIGINT):
            termination._previous[number] = signal.signal(number, termination._on_signal)
        return termination

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Keep signals back until the block ends. A second one does not wait."""
        self._ticking = True
        try:
            yield
        finally:
            self._ticking = False
            pending, self._pending = self._pending, None
            if pending:
                self._handle(*pending)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._ticking and self._pending is None:
            self._pending = (number, frame)
        else:
            self._handle(number, frame)

    def _handle(self, number: int, frame: Any) -> None:
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
        elif previous is not signal.SIG_IGN:
            raise SystemExit(0)


@contextlib.contextmanager
def _options(entry: Any, claim: Claim, term: Term | None) -> Iterator[None]:
    """Give *entry* the id and the headers of its tick for a while; entries can't be copied, not all kinds of them."""
    before = entry.options
    headers = {**(before.get("headers") or {}), "leader_due_at": claim.tick.due_at.isoformat()}
    if term:
        headers["leader_token"] = str(term.fencing_token)
    entry.options = {**before, "task_id": claim.task_id, "headers": headers}
    try:
        yield
    finally:
        entry.options = before


def _utc(time: datetime) -> datetime:
    return time.astimezone(timezone.utc)


def _standalone_campaign(app: Any, settings: LeaderSettings) -> Campaign:
    check_backend(settings, app.main)
    return Campaign(settings, [settings.beat_election], nodename=f"beat@{gethostname()}", app_name=app.main)


def leader_scheduler(base: type[Scheduler] | str) -> type[LeaderMixin]:
    """Return a scheduler class that does what *base* does, on the leader only.

    Args:
        base: A scheduler class, or its dotted path.
    """
    base_class: type[Any] = symbol_by_name(base)
    if issubclass(base_class, LeaderMixin):
        return base_class
    return type(f"Leader{base_class.__name__}", (LeaderMixin, base_class), {"__module__": __name__})


LeaderScheduler = leader_scheduler(Scheduler)


def __getattr__(name: str) -> Any:
    if name == "LeaderDatabaseScheduler":  # its base needs Django and the extra "beat"
        return leader_scheduler("django_celery_beat.schedulers:DatabaseScheduler")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
