"""Notifications by PostgreSQL's ``NOTIFY`` and ``LISTEN``."""

from __future__ import annotations

import re
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from django.db import Error, connections

from celery_leader.backends.listening import KEEPALIVE_AFTER, KEEPALIVE_EACH, KEEPALIVE_TIMES, Listener, Notifications
from celery_leader.django.connection import new_wrapper, second_handle
from celery_leader.exceptions import StoreUnavailable

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from celery_leader.django.connection import OwnConnection

#: A dead machine sends nothing, and neither does a server that has no notifications to send: keepalives tell which.
_KEEPALIVE = {
    "keepalives_idle": KEEPALIVE_AFTER,
    "keepalives_interval": KEEPALIVE_EACH,
    "keepalives_count": KEEPALIVE_TIMES,
}
#: PostgreSQL admits 63 bytes.
_PLAIN_NAME = re.compile(r"[\w:.@-]{1,48}", re.ASCII)
#: PostgreSQL admits just under 8000 bytes. A shortened holder equals none that a follower knows, so it ends a wait.
_MAX_TEXT = 1000


def channel_of(name: str) -> str:
    """Return the channel of the election in the row *name*: an identifier that is valid between quotes."""
    if _PLAIN_NAME.fullmatch(name):
        return f"celery-leader:{name}"
    return f"celery-leader#{sha256(name.encode()).hexdigest()[:48]}"


def notify(channel: str, holder: str, using: str) -> None:
    """Notify the listeners of *channel* of the new *holder*, as soon as the current transaction is committed."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [channel, holder[:_MAX_TEXT]])


class PostgresListener(Listener):
    """Listens on a connection of its own: ``LISTEN`` belongs to a session, and must not wait for anything else."""

    def __init__(self, beside: OwnConnection, channel: str, notifications: Notifications) -> None:
        """Listen to *channel* in the database of *beside*."""
        self._beside = beside
        self._channel = channel
        self._socket: socket.socket | None = None
        super().__init__(notifications, f"{channel} in {beside.where}")

    @contextmanager
    def subscription(self) -> Iterator[Callable[[float], list[str]]]:
        """See :meth:`celery_leader.backends.listening.Listener.subscription`."""
        wrapper = self._new_wrapper()
        try:
            with wrapper.cursor() as cursor:
                self._socket = second_handle(wrapper.connection)
                if self._stopping.is_set():  # checked last: a later stop() finds this socket, and cuts it
                    raise OSError("the listener was stopped")
                cursor.execute(f'LISTEN "{self._channel}"')
            with selectors.DefaultSelector() as selector, wrapper.wrap_database_errors:
                selector.register(wrapper.connection.fileno(), selectors.EVENT_READ)
                yield partial(_wait, wrapper.connection, selector)
        except (Error, OSError) as error:
            raise StoreUnavailable(f"{self._beside.where} sends no notifications: {error}") from error
        finally:
            handle, self._socket = self._socket, None
            if handle:
                handle.close()
            with suppress(Error, OSError):
                wrapper.close()

    def _new_wrapper(self) -> BaseDatabaseWrapper:
        values = self._beside.settings()
        values["OPTIONS"] = {**_KEEPALIVE, **values["OPTIONS"]}
        return new_wrapper(values, f"celery_leader_listener:{self._beside.alias}")

    def stop(self) -> None:
        """End at once, by cutting the connection."""
        super().stop()
        if handle := self._socket:
            with suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)


def _wait(connection: Any, selector: selectors.BaseSelector, timeout: float) -> list[str]:
    """Return the holders named within *timeout* seconds. Works with psycopg 2 and every psycopg 3."""
    holders = _take(connection)
    return holders or (_take(connection) if selector.select(timeout) else [])


def _take(connection: Any) -> list[str]:
    if not hasattr(connection, "pgconn"):  # psycopg 2
        connection.poll()
        holders, connection.notifies[:] = [str(each.payload) for each in connection.notifies], []
        return holders
    connection.pgconn.consume_input()
    return [each.extra.decode(errors="replace") for each in iter(connection.pgconn.notifies, None)]
