"""Calls of a store that always come back: a thread waits for the store, and the caller waits for that thread.

No driver bounds a whole call: it has many waits (for a name, for each node, for each part of an answer), and some of
them have no timeout at all. The thread may wait as long as it must; the caller waits no longer than it may.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from celery_leader.election.thread import join
from celery_leader.exceptions import LeaderError, StoreUnavailable

C = TypeVar("C")
T = TypeVar("T")


def cut_socket(connected: Any) -> None:
    """Fail each wait on a connected socket, from another thread, and leave the socket to its owner to close."""
    # The method of a TLS socket would first let go of its session, and a write in that moment would be plain text.
    shutdown = super(ssl.SSLSocket, connected).shutdown if isinstance(connected, ssl.SSLSocket) else connected.shutdown
    with suppress(OSError):  # it is closed already
        shutdown(socket.SHUT_RDWR)


class Session(Generic[C]):
    """Has work done on a connection of its own, which is opened when it is first needed. Any thread may ask."""

    def __init__(self, where: str, timeout: float, new_thread: Callable[[Any], SessionThread[C]]) -> None:
        """Prepare; nothing is connected.

        Args:
            where: Where the store is, for logs: no passwords.
            timeout: The longest (seconds) that one call may take.
            new_thread: Called with this session, to which the thread must keep no reference.
        """
        self.where = where
        self.timeout = timeout
        self._new_thread = new_thread
        self._thread: SessionThread[C] | None = None
        self._belong_here()

    def close(self) -> None:
        """Close the connection and end its thread. A later call begins anew."""
        self._leave_parent()
        with self._mutex:
            thread, self._thread = self._thread, None
        if thread and thread.is_alive():
            thread.stop()
            join(thread, self.timeout)

    def ask(self, work: Callable[[C], T]) -> T:
        """Return what *work* returns, called with the connection on the session's thread.

        Raises:
            StoreUnavailable: It did not return in time. Abandoned work will not complete later, provided its
                connection can be cut.
            Exception: Whatever it raised, or the attempt to connect.
        """
        self._leave_parent()
        with self._mutex:
            thread = self._living_thread()
            future = thread.submit(work)
        if wait([future], self.timeout).done:
            return future.result()
        with self._mutex:
            if self._thread is thread:
                self._thread = None
        thread.abandon()
        raise StoreUnavailable(f"{self.where} did not answer within {self.timeout:g} s")

    def _leave_parent(self) -> None:
        """In a forked child forget what is the parent's: a thread of its may have had the mutex, which nobody frees."""
        if self._pid != os.getpid():
            self._thread = None
            self._belong_here()

    def _belong_here(self) -> None:
        self._mutex = threading.Lock()  # not held while waiting: each of several threads waits no longer than it may
        self._pid = os.getpid()

    def _living_thread(self) -> SessionThread[C]:
        if self._thread is None or not self._thread.is_alive():
            self._thread = self._new_thread(self)
            self._thread.start()
        return self._thread


class SessionThread(threading.Thread, ABC, Generic[C]):
    """Waits for the store so that nobody else has to."""

    def __init__(self, session: Session[C], name: str) -> None:
        """Prepare to work for *session*, until it is closed or nobody has it any more."""
        super().__init__(name=name, daemon=True)
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[C], Any]] | None] = SimpleQueue()
        self._abandoned = False
        # Who forgets to close a session leaves no thread behind.
        self._forgotten = weakref.finalize(session, self._calls.put, None)

    @abstractmethod
    def connect(self) -> C:
        """Return the connection; open it when there is none."""

    @abstractmethod
    def cut(self) -> None:
        """Have whoever waits for an answer get an error. Called on another thread, whatever this one does."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close the connection, if there is one."""

    def submit(self, work: Callable[[C], T]) -> Future[T]:
        """Have *work* done and return where its result will be."""
        future: Future[T] = Future()
        self._calls.put((future, work))
        return future

    def stop(self) -> None:
        """Close the connection and end, after the work that was submitted."""
        self._forgotten.detach()
        self._calls.put(None)

    def abandon(self) -> None:
        """End as soon as possible: whoever asked has gone."""
        self._abandoned = True
        self.stop()
        self.cut()

    def refuse_if_abandoned(self) -> None:
        """Raise ``OSError`` once nobody waits any more: what was asked for must not be done late."""
        if self._abandoned:
            raise OSError("the connection came too late")

    def run(self) -> None:
        """Work until stopped."""
        while call := self._calls.get():
            future, work = call
            try:
                connection = self.connect()
                self.refuse_if_abandoned()
                result = work(connection)
            except LeaderError as error:  # an answer: all is well with the connection
                future.set_exception(error)
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                self.disconnect()
                future.set_exception(OSError(f"it was cut off: {error}") if self._abandoned else error)
            else:
                future.set_result(result)
            del call, future, work  # or the traceback would live until the next call
        self.disconnect()
