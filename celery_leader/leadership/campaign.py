"""This process's candidacies: one elector for each election, all on one backend."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from celery_leader import signals
from celery_leader.backends import Backend, open_backend
from celery_leader.election import (
    Candidacy,
    ElectorThread,
    LeaderElector,
    StopReason,
    Term,
    Trust,
    new_identity,
)
from celery_leader.exceptions import StoreUnavailable
from celery_leader.leadership import state
from celery_leader.leadership.shared_trust import SharedTrust
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

#: How long (seconds) a stopping process waits for its observers.
OBSERVERS_TIMEOUT = 1.0


def backend_of(settings: LeaderSettings, app_name: str | None) -> Backend:
    """Return the backend that *settings* name, without opening a connection.

    Raises:
        ConfigurationError: The backend's URL is wrong, or a package that it needs is not installed.
    """
    prefix = settings.store_prefix(app_name)
    return open_backend(settings.backend, prefix=prefix, timeout=settings.io_timeout, options=settings.backend_options)


def check_backend(backend: Backend) -> None:
    """Check that a store can be used. A store that does not answer may do so later: that is only a warning.

    Raises:
        ConfigurationError: The store can't be used, and waiting won't help.
    """
    try:
        backend.check()
    except StoreUnavailable as error:
        logger.warning("Nobody can be elected for now: %s", error)  # the error names the store


class Candidate:
    """This process in one election."""

    def __init__(self, election: str, campaign: Campaign, *, in_file: bool) -> None:
        """Make the elector, and the shared trust from which children read its belief; nothing runs yet."""
        self.election = election
        self.shared_trust = SharedTrust.create(in_file=in_file)
        #: Set while this process leads, as of the last attempt: made for waiting, not for decisions.
        self.leading = threading.Event()
        #: The opposite.
        self.not_leading = threading.Event()
        self.not_leading.set()
        self._listeners: list[Callable[[bool], None]] = []
        settings = campaign.settings
        self.elector = LeaderElector(
            settings.election(election, identity=campaign.identity),
            campaign.backend.lock(election),
            observers=[_Signals(election), _SharedLeader(self.shared_trust)],
            publish=self._publish,
        )
        self.thread = ElectorThread(
            self.elector,
            candidacy=campaign.candidacy,
            is_busy=lambda: campaign.is_busy(election),
        )

    @property
    def term(self) -> Term | None:
        """The term in which this process leads, and may begin work, at this moment."""
        return None if self.shared_trust.is_closing() else self.elector.term

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Call *listener* at each change, on the elector's thread, with whether this process leads.

        It must not block. Its errors are logged.
        """
        self._listeners.append(listener)

    def _publish(self, trust: Trust | None) -> None:
        self.shared_trust.publish(trust)
        leads = trust is not None
        if leads is self.leading.is_set():
            return
        begun, ended = (self.leading, self.not_leading) if leads else (self.not_leading, self.leading)
        ended.clear()
        begun.set()
        for listener in self._listeners:
            try:
                listener(leads)
            except Exception:  # the election goes on whatever a listener does
                logger.exception("Election %r: %r failed", self.election, listener)


class Campaign:
    """All candidacies of this process. It is made before a pool forks, and started after."""

    def __init__(
        self,
        settings: LeaderSettings,
        elections: Iterable[str],
        *,
        backend: Backend,
        nodename: str,
        candidacy: Callable[[], Candidacy] = lambda: Candidacy.CONTEND,
        is_busy: Callable[[str], bool] = lambda election: False,
        in_file: bool = False,
    ) -> None:
        """Prepare; no connection is opened and no thread runs before :meth:`start`.

        Args:
            settings: The app's settings.
            elections: The names of the elections in which this process takes part.
            backend: Where the elections are kept.
            nodename: Celery's name of this process.
            candidacy: Says before each attempt how far it may go.
            is_busy: Says whether work for the leader of an election runs now.
            in_file: Keep the shared trusts in files, for pool children that are spawned.
        """
        self.settings = settings
        self.identity = new_identity(nodename)
        self.is_busy = is_busy
        self._candidacy = candidacy
        self.backend = backend
        self.candidates = {name: Candidate(name, self, in_file=in_file) for name in dict.fromkeys(elections)}
        state.register(self._shared_trusts())

    def candidacy(self) -> Candidacy:
        """Return how far this process may go at this moment."""
        return self._candidacy() if self.settings.eligible else Candidacy.OBSERVE

    def start(self) -> None:
        """Start contending."""
        for candidate in self.candidates.values():
            candidate.thread.start()
        logger.info("%s takes part in the elections %s, kept in %s",
                    self.identity, ", ".join(self.candidates), self.backend.describe())  # fmt: skip

    def wake(self) -> None:
        """Make the next attempts now."""
        for candidate in self.candidates.values():
            candidate.thread.wake()

    def close_to_new_work(self) -> None:
        """Let no new guarded work begin, and let leaders check their candidacy.

        It waits for no lock, so a signal handler may call it.
        """
        for candidate in self.candidates.values():
            candidate.shared_trust.close_to_new_work()
            candidate.thread.ring()

    def drain(self) -> None:
        """Let no new guarded work begin, and release each lease as soon as none runs. Returns at once."""
        self.close_to_new_work()
        for candidate in self.candidates.values():
            candidate.thread.drain()

    def stop(self, timeout: float | None = None) -> None:
        """Give the leases back and end all threads.

        Args:
            timeout: How long (seconds) to wait for all leases; when omitted, a little longer than two calls of the
                store may take. Observers have :data:`OBSERVERS_TIMEOUT` more.
        """
        timeout = 2 * self.settings.io_timeout + 1 if timeout is None else timeout
        threads = [candidate.thread for candidate in self.candidates.values()]
        for thread in threads:
            thread.stop(0)  # none waits for another
        deadline = time.monotonic() + timeout
        for thread in threads:
            if not thread.stop(_until(deadline)):
                logger.warning("Election %r: the lease was not released within %.1f s; it will run out",
                               thread.elector.config.name, timeout)  # fmt: skip
        state.unregister(self._shared_trusts())
        deadline = time.monotonic() + OBSERVERS_TIMEOUT
        for candidate in self.candidates.values():
            candidate.elector.join_observers(_until(deadline))
            candidate.shared_trust.unlink()

    def _shared_trusts(self) -> dict[str, SharedTrust]:
        return {name: candidate.shared_trust for name, candidate in self.candidates.items()}


def _until(deadline: float) -> float:
    """Return how many seconds are left until *deadline*, by the monotonic clock."""
    return max(0.0, deadline - time.monotonic())


class _Signals:
    """Sends Celery's signals for what an elector reports."""

    def __init__(self, election: str) -> None:
        self._election = election

    def started(self, term: Term) -> None:
        signals.leader_started.send(sender=self._election, term=term)

    def stopped(self, term: Term, reason: StopReason) -> None:
        signals.leader_stopped.send(sender=self._election, term=term, reason=reason)

    def new_leader(self, identity: str) -> None:
        signals.leader_changed.send(sender=self._election, identity=identity)


class _SharedLeader:
    """Writes the observed leader where pool children read it."""

    def __init__(self, shared_trust: SharedTrust) -> None:
        self._shared_trust = shared_trust

    def started(self, term: Term) -> None:
        pass

    def stopped(self, term: Term, reason: StopReason) -> None:
        pass

    def new_leader(self, identity: str) -> None:
        self._shared_trust.publish_leader(identity)
