"""The thread that makes an elector's attempts, one after another, until it is stopped."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable

from celery_leader.election.candidacy import Candidacy
from celery_leader.election.elector import LeaderElector
from celery_leader.election.term import Term

logger = logging.getLogger(__name__)

#: A notified follower waits a random time up to this (seconds) before it looks: no herd.
MAX_WAKE_DELAY = 0.05
#: How often (seconds) a leader checks whether to release its lease, even when nobody rings.
LOOK_PERIOD = 0.5
#: How often (seconds) a draining leader checks whether guarded work has finished; nothing signals that.
DRAIN_POLL = 0.01


def join(thread: threading.Thread, timeout: float | None) -> None:
    """Wait up to *timeout* seconds for *thread* to end; see :meth:`threading.Thread.join`.

    On Python 3.13 a thread of eventlet's raises an error at the end of that time, which is no Exception.
    """
    try:
        thread.join(timeout)
    except BaseException as error:
        if type(error).__module__ != "eventlet.timeout":
            raise


class Bell:
    """Wakes one thread. Anybody may ring it, even a signal handler.

    An event is not safe there: a handler that interrupts the main thread inside ``Event.set()`` and calls it again
    waits for itself for ever. Releasing a bare lock takes no other lock.
    """

    def __init__(self) -> None:
        """Make a silent bell."""
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """End the wait that is under way, or the next one. Several rings before a wait count as one."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._silence.release()

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds; return whether it rang."""
        return self._silence.acquire(timeout=max(0.0, timeout))


class ElectorThread:
    """Runs one elector in a daemon thread. All methods may be called from any thread, and more than once.

    Nothing that a store, an observer or a bug does ends the thread: it contends until :meth:`stop`. Only :meth:`stop`
    waits for the store, for as long as its caller allows.
    """

    def __init__(
        self,
        elector: LeaderElector,
        *,
        candidacy: Callable[[], Candidacy] = lambda: Candidacy.CONTEND,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare the thread; nothing runs before :meth:`start`.

        Args:
            elector: The elector. From :meth:`start` on only this thread makes its attempts.
            candidacy: Says before each attempt how far it may go. A leader that may only hold its lease releases it
                as soon as it is not busy (when ``release_on_cancel``), and pauses until it may contend again.
            is_busy: Says before a release whether work that needs the lease still runs.
        """
        self.elector = elector
        self._candidacy = candidacy
        self._is_busy = is_busy
        self._woken = threading.Event()
        self._bell = Bell()
        self._stopping = threading.Event()
        self._draining = threading.Event()
        self._starting = threading.Lock()  # held while a thread is made, never across I/O
        self._thread: threading.Thread | None = None
        self._resigned: set[Term] = set()
        self._stands_back_until = 0.0
        self._idle_notifications = 0
        self._notified_leader: str | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start contending. Does nothing when the thread runs already.

        Raises:
            RuntimeError: The thread was stopped before; a stopped candidate is not started again.
        """
        with self._starting:
            if self._stopping.is_set():
                raise RuntimeError("This ElectorThread was stopped; make a new one.")
            if self._thread is None:
                name = f"celery-leader-{self.elector.config.name}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()
                self._thread = thread

    def wake(self) -> None:
        """Make the next attempt now."""
        self._woken.set()
        self._bell.ring()
        self.elector.lock.interrupt()

    def ring(self) -> None:
        """Let a leader check now whether to release its lease. A signal handler may call this."""
        self._bell.ring()

    def drain(self) -> None:
        """Acquire nothing any more, renew while guarded work runs, then release. Returns at once."""
        self._draining.set()
        self.wake()

    def resign(self) -> None:
        """Give the lease back as soon as no guarded work runs, then contend again as any other. Returns at once.

        The request ends the current term and no later one. Further requests add nothing, and a follower has nothing
        to resign from. Others go first: this candidate acquires nothing for as long as any of them may sleep between
        two looks. Guarded work that begins meanwhile delays the end of the term.
        """
        if term := self.elector.term:
            self._resigned.add(term)
            self._bell.ring()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop contending; release the lease (when ``release_on_cancel``) and end the thread.

        Args:
            timeout: How long (seconds) to wait for that. None waits for as long as the lock's own bounds allow.

        Returns:
            Whether the thread has ended.
        """
        self._stopping.set()
        self.wake()
        with self._starting:  # waits for a thread that starts at this moment, too
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            join(thread, timeout)
        return not self.is_alive

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._turn()
                except (Exception, SystemExit):  # a candidate contends until it is stopped, whatever happens
                    logger.exception("Election %r: an attempt failed unexpectedly", self.elector.config.name)
                    if not self._stopping.is_set():
                        self._woken.wait(self.elector.config.retry_period)
        finally:
            self._finish()

    def _turn(self) -> None:
        self._woken.clear()
        if self._may_release():
            self.elector.release()
            self._stand_back()
        elif not self.elector.is_leader():
            self._resigned.clear()
        self.elector.candidacy = self._current_candidacy()
        self._sleep(self.elector.step())

    def _current_candidacy(self) -> Candidacy:
        if self._draining.is_set():
            return Candidacy.HOLD
        candidacy = self._candidacy()
        stands_back = candidacy is Candidacy.CONTEND and time.monotonic() < self._stands_back_until
        return Candidacy.HOLD if stands_back else candidacy

    def _may_release(self) -> bool:
        """Return whether to release the lease before the thread is stopped: by request, and when nothing runs."""
        term = self.elector.term
        return term is not None and (term in self._resigned or self._only_holds()) and not self._is_busy()

    def _only_holds(self) -> bool:
        return self.elector.config.release_on_cancel and self._current_candidacy() is Candidacy.HOLD

    def _stand_back(self) -> None:
        """Acquire nothing until every other candidate has looked once, so that this one is not the quickest."""
        config = self.elector.config
        self._stands_back_until = time.monotonic() + config.retry_period * (1 + config.jitter_factor)

    def _finish(self) -> None:
        for action in (self._release, self.elector.lock.close):
            try:
                action()
            except (Exception, SystemExit):  # the lease runs out by itself
                logger.exception("Election %r: releasing the lease failed", self.elector.config.name)

    def _release(self) -> None:
        if self.elector.config.release_on_cancel:
            self.elector.release()

    def _sleep(self, delay: float) -> None:
        if self._stopping.is_set():  # perhaps since before this turn cleared the wake-up
            return
        if self.elector.is_leader():
            self._sleep_as_leader(delay)
        elif not self._wait_for_notification(max(delay, self._stands_back_until - time.monotonic())):
            self._idle_notifications = 0
        elif not self._woken.is_set():
            self._woken.wait(min(delay, self._wake_delay()))
            # The next attempt sees all changes until now, so their notifications must not cause another.
            self.elector.lock.wait(0)

    def _wake_delay(self) -> float:
        """Return how long to wait after a notification: twice as long as before when that one brought no new leader.

        A store that is down may end every wait at once. It must not get forty requests a second.
        """
        leader = self.elector.get_leader()
        self._idle_notifications = self._idle_notifications + 1 if leader == self._notified_leader else 0
        self._notified_leader = leader
        return random.uniform(0, MAX_WAKE_DELAY) * 2.0 ** min(self._idle_notifications, 10)  # noqa: S311  # spreads requests

    def _sleep_as_leader(self, delay: float) -> None:
        end = time.monotonic() + delay
        while (left := end - time.monotonic()) > 0 and not self._may_release():
            if self._woken.is_set():
                return
            is_draining = self._current_candidacy() is Candidacy.HOLD
            self._bell.wait(min(left, DRAIN_POLL if is_draining else LOOK_PERIOD))

    def _wait_for_notification(self, delay: float) -> bool:
        """Sleep on the lock; return whether it ended the sleep before its time."""
        end = time.monotonic() + delay
        while not self._woken.is_set() and (left := end - time.monotonic()) > 0:
            self.elector.lock.wait(left)
            if end - time.monotonic() > left * 0.1:  # clearly early: no timer is so wrong
                return True
        return False
