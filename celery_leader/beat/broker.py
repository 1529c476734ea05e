"""From a tick that is claimed to the broker, in bounded time: a beat that waits for a broker sends nothing else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler, SchedulingError
from kombu.exceptions import OperationalError

from celery_leader.beat.message import with_options
from celery_leader.ledger import Claim

logger = logging.getLogger(__name__)

#: AMQP's codes of what passes: a queue's home node is down, a resource is locked, no consumers, an internal fault.
_PASSING = {311, 313, 404, 405, 541}


class PublisherMixin(Scheduler if TYPE_CHECKING else object):  # type: ignore[misc]  # Celery has no types
    """A scheduler's connection to the broker, and what to make of its errors."""

    #: The longest (seconds) to wait for a broker that keeps silent, where its transport can be told. What
    #: ``broker_transport_options`` say takes precedence.
    io_timeout: float

    @cached_property
    def connection(self) -> Any:
        """The connection to publish by."""
        connection = self.app.connection_for_write()
        transport, timeout = connection.get_transport_cls(), self.io_timeout
        ours = {
            "redis": {"socket_timeout": timeout, "socket_connect_timeout": timeout},
            # A message that lies in a socket's buffer has not reached the broker.
            "amqp": {"read_timeout": timeout, "write_timeout": timeout, "confirm_publish": True},
        }.get(transport.driver_type, {})
        connection.transport_options = {**ours, **(connection.transport_options or {})}
        if transport.driver_type == "redis":
            connection.transport_cls = _with_lasting_clients(transport)
        return connection

    def _ensure_connected(self) -> Any:
        """Open the connection if it is not, with one more try; the base would try for an hour."""
        return self.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def publish_tick(self, entry: Any, claim: Claim, token: int) -> bool:
        """Publish the message of *claim*, which is of *entry*, for the term *token*.

        Returns:
            Whether it is out of our hands: the broker has it, or never will, as Celery's own beat gives it up. False:
            the broker takes no messages now.
        """
        try:
            producer = self.producer
        except Exception as error:  # noqa: BLE001  # whatever it is, it says nothing of the message
            return self._has_failed(claim, error, is_away=True)
        try:
            with with_options(entry, claim, token):
                logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
                super().apply_async(entry, producer=producer, advance=False)
        except Exception as error:  # noqa: BLE001  # whatever it is: one message must not hold up the others
            cause = error.__context__ if isinstance(error, SchedulingError) else error
            return self._has_failed(claim, cause, is_away=self.is_broker_away(cause))
        return True

    def _has_failed(self, claim: Claim, cause: BaseException | None, *, is_away: bool) -> bool:
        self.forget_connection()  # AMQP closes a channel on which it refused something
        if is_away:
            logger.error("%s, due at %s, stays claimed, the broker does not take it: %s",
                         claim.tick.entry, claim.tick.due_at, cause)  # fmt: skip
            return False
        logger.error("%s, due at %s, can't be sent and is given up: %s",
                     claim.tick.entry, claim.tick.due_at, cause, exc_info=cause)  # fmt: skip
        return True

    def is_broker_away(self, cause: BaseException | None) -> bool:
        """Return whether *cause*, an error of publishing, says that the broker takes no messages, rather than not this.

        kombu, which tries again, makes one error of all that may pass. Others are of the message: what an argument
        raises that is made when the message is sent may be an OSError as well.
        """
        if isinstance(cause, OperationalError) or getattr(cause, "reply_code", None) in _PASSING:
            return True
        return isinstance(cause, self.connection.connection_errors) and not isinstance(cause, (KeyError, OSError))

    def forget_connection(self) -> None:
        """Let the next message have a new connection."""
        self.__dict__.pop("producer", None)
        if connection := self.__dict__.pop("connection", None):
            with contextlib.suppress(Exception):  # it is broken
                connection.release()


def _with_lasting_clients(transport: Any) -> Any:
    """Return kombu's *transport* for Redis with lasting clients; it makes one a message, a quarter of its work."""

    class Channel(transport.Channel):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.Client = _lasting(self.Client)  # type: ignore[has-type]  # kombu has no types

    return type(transport.__name__, (transport,), {"Channel": Channel})


def _lasting(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return what *make* does, with one client for each pool of connections."""
    clients: dict[Any, Any] = {}

    def client(*, connection_pool: Any, **kwargs: Any) -> Any:
        if connection_pool not in clients:
            clients[connection_pool] = make(connection_pool=connection_pool, **kwargs)
        return clients[connection_pool]

    return client
