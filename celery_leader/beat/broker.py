"""The beat's connection to the broker, whose calls come back: a beat that waits for a broker sends nothing else."""

from __future__ import annotations

from typing import Any

from kombu.exceptions import OperationalError

#: For publishing: one more try at once, for a connection that was cut while it was idle. What fails then stays claimed,
#: and is sent when the broker is back.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}

_TIMEOUTS = {  # the options by which kombu's transports take them
    "redis": ("socket_timeout", "socket_connect_timeout"),
    "amqp": ("read_timeout", "write_timeout"),
}


def connect(app: Any, timeout: float) -> Any:
    """Return a connection to publish by, not opened yet.

    Args:
        app: The Celery app.
        timeout: The longest (seconds) to wait for a broker that keeps silent, where its transport can be told. A value
            in ``broker_transport_options`` takes precedence.
    """
    connection = app.connection_for_write()
    names = _TIMEOUTS.get(connection.transport.driver_type, ())
    connection.transport_options = {**dict.fromkeys(names, timeout), **(connection.transport_options or {})}
    return connection


def ensure_open(connection: Any) -> Any:
    """Open *connection* if it is not, with one more try, and return it.

    Raises:
        OperationalError: The broker can't be reached.
    """
    return connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)


def errors(connection: Any) -> tuple[type[BaseException], ...]:
    """Return what a broker that is away for now makes publishing raise."""
    return (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)
