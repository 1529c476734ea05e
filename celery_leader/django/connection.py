"""A connection to a database that belongs to one lock or ledger alone, and calls that always come back.

Neither Django's thread-local connections nor a pool will do: they may be in the middle of somebody's transaction, all
lent out, or without any timeout. Nor do the drivers' timeouts: a server that was stopped keeps its sockets open and
acknowledges what it never reads, psycopg takes two seconds for one, and a name look-up has no timeout at all. So each
:class:`OwnConnection` has a thread that waits for the database, and the caller waits for that thread, no longer than it
may.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections
from django.db.utils import load_backend

from celery_leader.django.options import own_settings, session_statement
from celery_leader.exceptions import ConfigurationError, LeaderError, LockUnavailable

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger(__name__)

T = TypeVar("T")


class OwnConnection:
    """Runs work on a connection of its own to a database alias.

    The connection is opened when it is first needed, with the settings that the alias then has; it is examined before
    each use and closed after any error.
    """

    def __init__(self, alias: str, *, timeout: float, server_timeouts: bool = True) -> None:
        """Name the database.

        Args:
            alias: A key of ``DATABASES``.
            timeout: The longest (seconds) that :meth:`run` may take.
            server_timeouts: Whether the server is asked to give up by itself, too.
        """
        self.alias = alias
        self._timeout = timeout
        self._server_timeouts = server_timeouts
        self._mutex = threading.Lock()
        self._thread: _ConnectionThread | None = None

    def run(self, work: Callable[[str], T]) -> T:
        """Return what *work* returns, called with the alias (``using=``) of the connection, in autocommit.

        Raises:
            LockUnavailable: The database did not answer in time, or with an error. What *work* wrote may or may not
                be stored.
            ConfigurationError: The alias is unknown, or can't be used.
        """
        with self._mutex:  # not while waiting: each of several threads waits no longer than it may
            thread = self._living_thread()
            future = thread.submit(work)
        if not wait([future], self._timeout).done:
            with self._mutex:
                if self._thread is thread:
                    self._thread = None
            thread.abandon()
            raise LockUnavailable(f"{self.describe()} did not answer within {self._timeout:g} s")
        try:
            return future.result()
        except LeaderError:
            raise
        except (ImproperlyConfigured, ImportError) as error:  # a driver is missing
            raise ConfigurationError(f"{self.describe()} can't be used: {error}") from error
        except Exception as error:  # a driver whose connection is cut says so in many ways
            cause = " ".join(str(error).split()) or type(error).__name__
            raise LockUnavailable(f"{self.describe()} gave no answer: {cause}{self._cure(cause)}") from error

    def _cure(self, cause: str) -> str:
        """Return what to do about *cause* where that is known: PgBouncer's words say what it refuses, not why."""
        if not self._server_timeouts or "unsupported startup parameter" not in cause:
            return ""
        return (
            ". That is a pooler, which passes on no limits of time: set "
            'leader_backend_options = {"server_timeouts": False, "listen": False}'
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings of a connection like this one, from those that the alias has now.

        Raises:
            ConfigurationError: The alias is unknown, or can't be used.
        """
        return own_settings(self.alias, timeout=self._timeout, server_timeouts=self._server_timeouts)

    def describe(self) -> str:
        """Return which database this is, as a URL without passwords."""
        return f"django-db://{self.alias}"

    def close(self) -> None:
        """Close the connection and end its thread. A later :meth:`run` begins anew."""
        with self._mutex:
            thread, self._thread = self._thread, None
        if thread and thread.is_alive():  # in a forked child it is not, and the connection is the parent's
            thread.stop()
            thread.join(self._timeout)

    def _living_thread(self) -> _ConnectionThread:
        if self._thread is None or not self._thread.is_alive():
            self._thread = _ConnectionThread(self.alias, self._timeout, self._server_timeouts)
            self._thread.start()
        return self._thread


class _ConnectionThread(threading.Thread):
    """Waits for the database so that nobody else has to.

    Its connection is registered with Django under a name of its own, in this thread only: no ``close_old_connections``
    and no other code ever meets it.
    """

    def __init__(self, alias: str, timeout: float, server_timeouts: bool) -> None:
        super().__init__(name=f"celery-leader-db-{alias}", daemon=True)
        self._alias = alias
        self._using = f"celery_leader:{alias}"
        self._timeout = timeout
        self._server_timeouts = server_timeouts
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[str], Any]] | None] = SimpleQueue()
        self._wrapper: BaseDatabaseWrapper | None = None
        self._socket: socket.socket | None = None  # another handle of the connection's socket
        self._abandoned = False

    def submit(self, work: Callable[[str], T]) -> Future[T]:
        """Have *work* done and return where its result will be."""
        future: Future[T] = Future()
        self._calls.put((future, work))
        return future

    def stop(self) -> None:
        """Close the connection and end, after the work that was submitted."""
        self._calls.put(None)

    def abandon(self) -> None:
        """End as soon as possible: cut the connection, so that whoever waits for an answer gets an error."""
        self._abandoned = True
        self.stop()
        if handle := self._socket:
            with suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Work until stopped."""
        while call := self._calls.get():
            future, work = call
            try:
                result = self._do(work)
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                future.set_exception(error)
            else:
                future.set_result(result)
            del call, future, work  # or the traceback would live until the next call
        self._close()

    def _do(self, work: Callable[[str], T]) -> T:
        try:
            self._ensure_connection()
            return work(self._using)
        except LeaderError:  # an answer: all is well with the connection
            raise
        except BaseException:
            self._close()
            raise

    def _ensure_connection(self) -> None:
        if self._wrapper is not None and not self._is_usable(self._wrapper):
            self._close()
        if self._wrapper is None:
            self._open()
        if self._abandoned:  # whoever asked has gone; what it asked for must not be done late
            raise OSError("the connection came too late")

    def _open(self) -> None:
        values = own_settings(self._alias, timeout=self._timeout, server_timeouts=self._server_timeouts)
        self._wrapper = wrapper = new_wrapper(values, self._using)
        connections[self._using] = wrapper
        wrapper.ensure_connection()
        self._socket = second_handle(wrapper.connection)
        if statement := self._server_timeouts and session_statement(wrapper, self._timeout):
            with wrapper.cursor() as cursor:
                cursor.execute(statement)

    @staticmethod
    def _is_usable(wrapper: BaseDatabaseWrapper) -> bool:
        wrapper.queries_log.clear()  # it grows when DEBUG is set, and this thread has no requests that clear it
        try:
            # Not wrapper.is_usable(): PyMySQL's ping opens another connection in silence.
            with wrapper.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Error as error:
            logger.debug("The connection of %s is dead: %s", wrapper.alias, error)
            return False
        return True

    def _close(self) -> None:
        wrapper, self._wrapper = self._wrapper, None
        handle, self._socket = self._socket, None
        if handle:
            handle.close()
        if wrapper is not None:
            with suppress(Error, OSError):
                wrapper.close()


def new_wrapper(values: dict[str, Any], using: str) -> BaseDatabaseWrapper:
    """Return an unopened connection with the settings *values*, which Django does not know of."""
    wrapper: BaseDatabaseWrapper = load_backend(values["ENGINE"]).DatabaseWrapper(values, using)
    # Whatever TIME_ZONE is: in local time one hour of each year comes twice.
    wrapper.timezone_name = "UTC"
    return wrapper


def second_handle(connection: Any) -> socket.socket | None:
    """Return another handle of *connection*'s socket, where the driver shows it.

    A handle of our own stays good for this socket even when the connection was closed meanwhile and its number was
    given to another file.
    """
    holder = getattr(connection, "_sock", connection)  # PyMySQL's; psycopg has fileno() itself
    try:
        return socket.socket(fileno=os.dup(holder.fileno()))
    except (AttributeError, OSError, Error):  # SQLite, mysqlclient
        return None
