"""What this process asks and tells the store about ticks that it runs, whether it takes part in an election or not."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery_leader.backends import Admission, OnceStore, TransactionalOnceStore
from celery_leader.exceptions import ConfigurationError, StoreUnavailable
from celery_leader.leadership.campaign import backend_of
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How long (seconds) a tick that was done waits for a store that does not answer, and how long between two tries.
PATIENCE, PAUSE = 30.0, 1.0


class TickGuard:
    """One app's way to its store. Serves all threads of a process."""

    def __init__(self, once_store: OnceStore, *, retention: float) -> None:
        """Remember ticks that were done for *retention* seconds in *once_store*."""
        self._once_store = once_store
        self._retention = retention

    def require_transactions(self) -> None:
        """Look whether the store can commit a task's writes and its own note together.

        Raises:
            ConfigurationError: It can't.
        """
        self._transactional()

    def begin(self, task_id: str, owner: str, seconds: float) -> Admission:
        """Claim a tick; see :meth:`celery_leader.backends.OnceStore.begin`. A second try is made at once.

        Raises:
            StoreUnavailable: There was no answer to either.
        """
        return _twice(partial(self._once_store.begin, task_id, owner, seconds))

    @contextmanager
    def running(self, task_id: str, owner: str, *, in_transaction: bool = False) -> Iterator[None]:
        """Run a tick that was begun: noted as done at the end of the block, given back when the block raises.

        Raises:
            RecordConflict: At the end of a transaction: another delivery has taken the tick over. All was rolled back.
        """
        try:
            if in_transaction:
                with self._transactional().transaction(task_id, owner, self._retention):
                    yield
                return
            yield
        except BaseException:
            self._release(task_id, owner)
            raise
        self._note(task_id, owner)

    def _transactional(self) -> TransactionalOnceStore:
        if not isinstance(self._once_store, TransactionalOnceStore):
            raise ConfigurationError(
                "@once_per_tick(atomic=True) commits a task's writes together with the note that it is done, so the "
                "note must be in that database: set leader_backend to django-db://<alias>, or leave atomic out."
            )
        return self._once_store

    def _note(self, task_id: str, owner: str) -> None:
        """Note that a tick is done. The effect is there, so nothing is raised when it can't be noted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if not self._once_store.done(task_id, owner, self._retention):
                    logger.warning(
                        "Tick %s ran longer than its claim lasted, or its claim was lost: it may have run twice. "
                        "Give @once_per_tick a longer timeout.", task_id,
                    )  # fmt: skip
                return
            except StoreUnavailable as error:
                if time.monotonic() + PAUSE > deadline:
                    logger.error(  # noqa: TRY400  # the message says it all
                        "Tick %s is done, which could not be noted within %.0f s: %s. A message of it that comes after "
                        "its claim has ended runs again.", task_id, PATIENCE, error,
                    )  # fmt: skip
                    return
                time.sleep(PAUSE)

    def _release(self, task_id: str, owner: str) -> None:
        try:
            _twice(partial(self._once_store.release, task_id, owner))
        except StoreUnavailable as error:
            logger.warning("Tick %s can't be tried again before its claim has ended: %s", task_id, error)


def _twice(call: Callable[[], T]) -> T:
    """Return what *call* returns, tried again at once: a connection that was idle for long may have been cut."""
    try:
        return call()
    except StoreUnavailable as error:
        logger.debug("Asked again, because %s", error)
        return call()


_guards: WeakKeyDictionary[Any, dict[int, TickGuard]] = WeakKeyDictionary()  # by app, then by process


def guard_of(app: Any) -> TickGuard:
    """Return the guard of *app*, a Celery app, in this process. A forked child makes its own.

    Raises:
        ConfigurationError: The app's settings are wrong, or name no store.
    """
    guards, pid = _guards.setdefault(app, {}), os.getpid()
    if pid not in guards:
        settings = LeaderSettings.from_app(app)
        guard = TickGuard(backend_of(settings, app.main).once_store(), retention=settings.tick_retention)
        guards.setdefault(pid, guard)  # of threads that all make one, the first one's counts
    return guards[pid]
