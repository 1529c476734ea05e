"""A database connection that belongs to one lock or ledger alone, and calls that always return.

Django's thread-local connections and pools are no alternative: they may be inside a transaction, all in use, or
without any timeout. The drivers' timeouts are not enough: a stopped server keeps its sockets open and acknowledges what
it never reads, psycopg rounds one second up to two, and a name look-up has no timeout at all.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections
from django.db.utils import load_backend

from celery_leader.backends.bounded import Session, SessionThread
from celery_leader.django.options import own_settings, session_statement
from celery_leader.election.limits import shown
from celery_leader.exceptions import ConfigurationError, LeaderError, StoreUnavailable

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The words of PostgreSQL and MySQL when they refuse a login; few drivers have a code for it.
_LOGIN_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba.conf entry|role \".*\" does not exist|Access denied for user"
)


class OwnConnection(Session[str]):
    """Runs work on a connection of its own to a database alias.

    The connection is opened when it is first needed, with the alias's settings of that moment. It is tested before each
    use, and closed after any error.
    """

    def __init__(self, alias: str, *, timeout: float, server_timeouts: bool = True) -> None:
        """Name the database.

        Args:
            alias: A key of ``DATABASES``.
            timeout: The longest (seconds) that :meth:`run` may take.
            server_timeouts: Whether the server has timeouts of its own, too.
        """
        super().__init__(f"django-db://{alias}", timeout, _ConnectionThread)
        self.alias = alias
        self.server_timeouts = server_timeouts
        #: Returns the settings of a connection like this one, from the alias's settings of this moment. Raises
        #: ``ConfigurationError`` when the alias is unknown or can't be used.
        self.settings = partial(own_settings, alias, timeout=timeout, server_timeouts=server_timeouts)

    def run(self, work: Callable[[str], T]) -> T:
        """Return what *work* returns, called with the alias (``using=``) of the connection, in autocommit.

        Raises:
            StoreUnavailable: The database answered too late, or with an error. The writes of *work* may or may not be
                stored.
            ConfigurationError: The alias is unknown or can't be used.
        """
        try:
            return self.ask(work)
        except LeaderError:
            raise
        except (ImproperlyConfigured, ImportError) as error:  # a driver is missing
            raise ConfigurationError(f"{self.where} can't be used: {error}") from error
        except Exception as error:  # drivers raise many kinds when their connection is cut
            cause = " ".join(str(error).split()) or type(error).__name__
            what = "refused the login" if _LOGIN_REFUSED.search(cause) else "gave no answer"
            raise StoreUnavailable(f"{self.where} {what}: {shown(cause)}{self._cure(cause)}") from error

    def _cure(self, cause: str) -> str:
        """Return what to do about *cause*, if that is known. PgBouncer tells what it refuses, and no cure."""
        if not self.server_timeouts or "unsupported startup parameter" not in cause:
            return ""
        return (
            ". This pooler accepts no server timeouts: set "
            'leader_backend_options = {"server_timeouts": False, "listen": False}'
        )


class _ConnectionThread(SessionThread[str]):
    """Waits for the database.

    Django knows its connection under a name of its own, in this thread only, so neither ``close_old_connections`` nor
    other code can touch it.
    """

    def __init__(self, session: OwnConnection) -> None:
        super().__init__(session, f"celery-leader-db-{session.alias}")
        self._settings = session.settings
        self._using = f"celery_leader:{session.alias}"
        self._timeout = session.timeout if session.server_timeouts else None
        self._wrapper: BaseDatabaseWrapper | None = None
        self._socket: socket.socket | None = None  # another handle of the connection's socket

    def connect(self) -> str:
        """Return the alias of a connection that works at this moment."""
        if self._wrapper is not None and not self._is_usable(self._wrapper):
            self.disconnect()
        if self._wrapper is None:
            self._open()
        return self._using

    def cut(self) -> None:
        """Shut the socket down, if the driver gives access to it."""
        if handle := self._socket:
            with suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def _open(self) -> None:
        self._wrapper = wrapper = new_wrapper(self._settings(), self._using)
        connections[self._using] = wrapper
        wrapper.ensure_connection()
        if wrapper.vendor == "sqlite":  # only SQLite stores text that is not UTF-8; one such row would fail all reads
            wrapper.connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        self._socket = second_handle(wrapper.connection)
        if statement := self._timeout and session_statement(wrapper, self._timeout):
            with wrapper.cursor() as cursor:
                cursor.execute(statement)

    @staticmethod
    def _is_usable(wrapper: BaseDatabaseWrapper) -> bool:
        wrapper.queries_log.clear()  # it grows when DEBUG is set, and only a web request would clear it
        try:
            # Not wrapper.is_usable(): PyMySQL's ping silently opens another connection.
            with wrapper.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Error as error:
            logger.debug("The connection of %s is dead: %s", wrapper.alias, error)
            return False
        return True

    def disconnect(self) -> None:
        """Close the connection."""
        wrapper, self._wrapper = self._wrapper, None
        handle, self._socket = self._socket, None
        if handle:
            handle.close()
        if wrapper is not None:
            with suppress(Error, OSError):
                wrapper.close()


def new_wrapper(values: dict[str, Any], using: str) -> BaseDatabaseWrapper:
    """Return an unopened connection with the settings *values*. Django does not know it."""
    wrapper: BaseDatabaseWrapper = load_backend(values["ENGINE"]).DatabaseWrapper(values, using)
    # Whatever TIME_ZONE is: in local time, one hour of each year comes twice.
    wrapper.timezone_name = "UTC"
    return wrapper


def second_handle(connection: Any) -> socket.socket | None:
    """Return another handle of *connection*'s socket, None if the driver gives no access to it.

    This handle always means this socket. The number of the driver's own may by now belong to another file.
    """
    holder = getattr(connection, "_sock", connection)  # PyMySQL's; psycopg has fileno() itself
    try:
        return socket.socket(fileno=os.dup(holder.fileno()))
    except (AttributeError, OSError, Error):  # SQLite, mysqlclient
        return None
