"""Forwarding: sending a message unchanged to another queue."""

from __future__ import annotations

import contextlib
from typing import Any

from celery import Celery
from kombu import Queue

from celery_leader.beat.connection import open_connection

#: The header of a message that was forwarded.
FORWARDED_HEADER = "leader_forwarded"
#: How long (seconds) the broker may take; the worker's main loop waits meanwhile.
TIMEOUT = 2.0

#: The properties that say how to treat a message, besides its headers.
_PROPERTIES = ("correlation_id", "delivery_mode", "priority", "reply_to")


class Forwarder:
    """A connection to the broker, opened when the first message is forwarded."""

    def __init__(self, app: Celery) -> None:
        """Send to the broker of *app*."""
        self._app = app
        self._producer: Any = None

    def forward(self, message: Any, queue: Queue) -> None:
        """Send *message* to *queue*; the broker has it when this returns.

        Raises:
            Exception: The transport's error. The message may have been sent all the same.
        """
        was_open = self._producer is not None
        try:
            self._send(message, queue)
        except Exception:
            self.close()
            if not was_open:
                raise
            self._send(message, queue)  # the connection may have been cut while nothing was forwarded

    def close(self) -> None:
        """Close the connection; the next message opens it again."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):  # it may be broken
                producer.connection.collect()  # AMQP would say goodbye first, and wait for a broker that hangs

    def _send(self, message: Any, queue: Queue) -> None:
        properties = {
            name: message.properties[name] for name in _PROPERTIES if message.properties.get(name) is not None
        }
        headers = {**message.headers, FORWARDED_HEADER: True}
        self._connected().publish(
            message.body,
            exchange=queue.exchange,
            routing_key=queue.routing_key,
            declare=[queue],
            headers=headers,
            compression=headers.pop("compression", None),
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            **properties,
        )

    def _connected(self) -> Any:
        if self._producer is None:
            connection = open_connection(self._app, TIMEOUT)
            connection.ensure_connection(max_retries=1, interval_start=0)
            self._producer = connection.Producer()
        return self._producer
