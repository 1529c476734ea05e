"""The beat's connection to the broker, whose calls come back: a beat that waits for a broker sends nothing else."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler
from kombu.exceptions import OperationalError

#: For publishing: one more try at once, for a connection that was cut while it was idle. What fails then stays claimed,
#: and is sent when the broker is back.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}

_TIMEOUTS = {  # the options by which kombu's transports take them
    "redis": ("socket_timeout", "socket_connect_timeout"),
    "amqp": ("read_timeout", "write_timeout"),
}


class PublisherMixin(Scheduler if TYPE_CHECKING else object):  # type: ignore[misc]  # Celery has no types
    """A scheduler's connection to the broker, and what to make of its errors."""

    #: The longest (seconds) to wait for a broker that keeps silent, where its transport can be told. What
    #: ``broker_transport_options`` say takes precedence.
    io_timeout: float

    @cached_property
    def connection(self) -> Any:
        """The connection to publish by."""
        connection = self.app.connection_for_write()
        names = _TIMEOUTS.get(connection.transport.driver_type, ())
        connection.transport_options = {
            **dict.fromkeys(names, self.io_timeout),
            **(connection.transport_options or {}),
        }
        return connection

    def _ensure_connected(self) -> Any:
        """Open the connection if it is not, with one more try; the base would try for an hour."""
        return self.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def is_broker_away(self, cause: BaseException | None) -> bool:
        """Return whether *cause*, an error of publishing, says that the broker takes no messages, rather than not this.

        Redis' refusals are those of a server that is loading, full or a replica; AMQP's are of the one message. kombu
        counts KeyError among Redis' errors, but what an argument raises that is made when the message is sent may be
        one as well.
        """
        connection = self.connection
        errors = (OperationalError, *connection.connection_errors)
        if connection.transport.driver_type != "amqp":
            errors = (*errors, *connection.channel_errors)
        return isinstance(cause, errors) and not isinstance(cause, KeyError)

    def forget_connection(self) -> None:
        """Let the next message have a new connection."""
        self.__dict__.pop("producer", None)
        if connection := self.__dict__.pop("connection", None):
            with contextlib.suppress(Exception):  # it is broken
                connection.release()
