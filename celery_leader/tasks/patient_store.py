"""The once store as tasks use it: claim a tick, run it, note it as done, with patience while the store is away."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery_leader.backends import Admission, OnceStore, TransactionalOnceStore
from celery_leader.exceptions import ConfigurationError, StoreUnavailable
from celery_leader.leadership.campaign import backend_of
from celery_leader.settings import LeaderSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How long (seconds) a tick that is done waits for a store that does not answer, and how long between two tries.
PATIENCE, PAUSE = 30.0, 1.0


class PatientOnceStore:
    """An app's once store, asked again when it does not answer. Serves all threads of a process."""

    def __init__(self, store: OnceStore, *, retention: float) -> None:
        """Let *store* remember for *retention* seconds which ticks are done."""
        self._store = store
        self._retention = retention

    def require_transactions(self) -> TransactionalOnceStore:
        """Return the store, which can commit a task's writes together with the note that its tick is done.

        Raises:
            ConfigurationError: It can't.
        """
        if not isinstance(self._store, TransactionalOnceStore):
            raise ConfigurationError(
                "@once_per_tick(atomic=True) commits a task's writes together with the note that its tick is done, so "
                "both must be in one database: set leader_backend to django-db://<alias>, or leave atomic out."
            )
        return self._store

    def begin(self, tick: str, owner: str, seconds: float) -> Admission:
        """Claim a tick; see :meth:`celery_leader.backends.OnceStore.begin`. The first failure is followed by one retry.

        Raises:
            StoreUnavailable: The retry failed, too.
        """
        return _twice(partial(self._store.begin, tick, owner, seconds))

    @contextmanager
    def running(self, tick: str, owner: str, *, in_transaction: bool = False) -> Iterator[None]:
        """Run a claimed tick: the end of the block notes it as done, an exception in the block gives its claim back.

        Raises:
            ConfigurationError: The store has no transactions.
            RecordConflict: At the end of a transaction: another delivery has taken the tick over. All was rolled back.
        """
        try:
            with self._transaction(tick, owner) if in_transaction else nullcontext():
                yield
        except BaseException:  # a worker that ends its task early raises SystemExit
            self._release(tick, owner)
            raise
        if not in_transaction:
            self._note(tick, owner)

    def _transaction(self, tick: str, owner: str) -> AbstractContextManager[None]:
        return self.require_transactions().transaction(tick, owner, self._retention)

    def _note(self, tick: str, owner: str) -> None:
        """Note that a tick is done. Its effect has happened, so a note that can't be written raises nothing."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if not self._store.done(tick, owner, self._retention):
                    logger.warning(
                        "Tick %s may have run twice: it ran longer than its claim lasted, or the store lost its claim. "
                        "Give @once_per_tick a longer timeout.", tick,
                    )  # fmt: skip
                return
            except StoreUnavailable as error:
                if time.monotonic() + PAUSE > deadline:
                    logger.error(  # noqa: TRY400  # the message says it all
                        "Tick %s is done, but that could not be noted within %.0f s: %s. If its message is delivered "
                        "again after its claim has ended, it runs again.", tick, PATIENCE, error,
                    )  # fmt: skip
                    return
                time.sleep(PAUSE)

    def _release(self, tick: str, owner: str) -> None:
        try:
            _twice(partial(self._store.release, tick, owner))
        except StoreUnavailable as error:
            logger.warning("Tick %s can't run again before its claim has ended: %s", tick, error)


def _twice(call: Callable[[], T]) -> T:
    """Return what *call* returns. Retry once: a connection that was idle for long may have been cut."""
    try:
        return call()
    except StoreUnavailable as error:
        logger.debug("Asked the once store again: %s", error)
        return call()


_stores: WeakKeyDictionary[Any, dict[int, PatientOnceStore]] = WeakKeyDictionary()  # by app, then by process


def once_store_of(app: Any) -> PatientOnceStore:
    """Return the once store of *app*, a Celery app, in this process. A forked child opens its own.

    Raises:
        ConfigurationError: The app's settings are wrong, or name no store.
    """
    stores, pid = _stores.setdefault(app, {}), os.getpid()
    if pid not in stores:
        settings = LeaderSettings.from_app(app)
        store = PatientOnceStore(backend_of(settings, app.main).once_store(), retention=settings.tick_retention)
        stores.setdefault(pid, store)  # all threads use the first one
    return stores[pid]
