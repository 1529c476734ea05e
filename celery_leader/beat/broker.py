"""From a tick that is claimed to the broker, in bounded time: a beat that waits for a broker sends nothing else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from amqp.exceptions import MessageNacked
from celery.beat import Scheduler, SchedulingError
from kombu.exceptions import OperationalError

from celery_leader.beat.message import with_options
from celery_leader.beat.outbox import Outcome
from celery_leader.beat.termination import CutOff, Termination
from celery_leader.election.limits import shown
from celery_leader.ledger import Claim

logger = logging.getLogger(__name__)

#: AMQP's codes of a message that may be taken later: too large for the moment, no queue or no consumers, no
#: permission, no such exchange (or a queue whose home node is down), a locked queue, one that was declared otherwise.
_REFUSED = {311, 312, 313, 403, 404, 405, 406}


class PublisherMixin(Scheduler if TYPE_CHECKING else object):  # type: ignore[misc]  # Celery has no types
    """A scheduler's connection to the broker, and what to make of its errors."""

    #: The longest (seconds) to wait for a broker that keeps silent, where its transport can be told. What
    #: ``broker_transport_options`` say takes precedence.
    io_timeout: float
    _termination: Termination | None
    _is_broker_away = False
    _is_publishing = False

    @cached_property
    def connection(self) -> Any:
        """The connection to publish by."""
        connection = self.app.connection_for_write()
        transport, timeout = connection.get_transport_cls(), self.io_timeout
        ours = {
            "redis": {"socket_timeout": timeout, "socket_connect_timeout": timeout},
            # A message that lies in a socket's buffer has not reached the broker.
            "amqp": {
                "connect_timeout": min(timeout, self.app.conf.broker_connection_timeout or timeout),
                "read_timeout": timeout,
                "write_timeout": timeout,
                "confirm_publish": True,
            },
        }.get(transport.driver_type, {})
        connection.transport_options = {**ours, **(connection.transport_options or {})}
        if transport.driver_type == "redis":
            connection.transport_cls = _with_lasting_clients(transport)
        return connection

    def _ensure_connected(self) -> Any:
        """Open the connection if it is not, with one more try; the base would try for an hour."""
        return self.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def publish_tick(self, entry: Any, claim: Claim, token: int) -> Outcome:
        """Publish the message of *claim*, which is of *entry*, for the term *token*.

        One that can never be sent is out of our hands as well: it is given up, as Celery's own beat does.
        """
        try:
            with self._cut_off_in_time():
                producer = self.producer
        except (Exception, CutOff) as error:  # noqa: BLE001  # whatever it is, it says nothing of the message
            return self._has_failed(claim, error, Outcome.AWAY)
        try:
            self._is_publishing = True
            with with_options(entry, claim, token), self._cut_off_in_time():
                logger.info("Scheduler: Sending due task %s (%s)", shown(entry.name), shown(entry.task))
                super().apply_async(entry, producer=producer, advance=False)
        except (Exception, CutOff) as error:  # noqa: BLE001  # whatever it is: one message must not hold up the others
            cause = error.__context__ if isinstance(error, SchedulingError) else error
            return self._has_failed(claim, cause, self.outcome_of(cause))
        finally:
            self._is_publishing = False
        if self._is_broker_away:
            self._is_broker_away = False
            logger.info("The broker takes messages again")
        return Outcome.OUT

    def should_sync(self) -> bool:
        """Not while a message is published, as Celery would: its entry has that message's options for the moment."""
        return not self._is_publishing and bool(super().should_sync())

    def _cut_off_in_time(self) -> contextlib.AbstractContextManager[None]:
        return self._termination.cutting_off() if self._termination else contextlib.nullcontext()

    def _has_failed(self, claim: Claim, cause: BaseException | None, outcome: Outcome) -> Outcome:
        self._forget_channel() if outcome is Outcome.REFUSED else self.forget_connection()
        if outcome is Outcome.OUT:
            logger.error("%s, due at %s, can't be sent and is given up: %s",
                         shown(claim.tick.entry), claim.tick.due_at, cause, exc_info=cause)  # fmt: skip
        else:
            is_told = self._is_broker_away and outcome is Outcome.AWAY  # it is asked each second
            logger.log(logging.DEBUG if is_told else logging.ERROR,
                       "%s, due at %s, stays claimed, the broker does not take it: %s",
                       shown(claim.tick.entry), claim.tick.due_at, cause)  # fmt: skip
            self._is_broker_away = outcome is Outcome.AWAY
        return outcome

    def outcome_of(self, cause: BaseException | None) -> Outcome:
        """Return what *cause*, an error of publishing, says: of this message, or of the broker.

        kombu, which tries again, makes one error of all that may pass. Others are of the message: what an argument
        raises that is made when the message is sent may be an OSError as well.
        """
        if getattr(cause, "reply_code", None) in _REFUSED or _is_refusal(cause and cause.__cause__):
            return Outcome.REFUSED
        if isinstance(cause, (OperationalError, CutOff)):
            return Outcome.AWAY
        is_away = isinstance(cause, self.connection.connection_errors) and not isinstance(cause, (KeyError, OSError))
        return Outcome.AWAY if is_away else Outcome.OUT

    def _forget_channel(self) -> None:
        """Let the next message have a new channel: AMQP closes one on which it refused something."""
        self.__dict__.pop("producer", None)
        with contextlib.suppress(Exception):  # the next message finds out
            self.connection.revive(None)

    def forget_connection(self) -> None:
        """Let the next message have a new connection."""
        self.__dict__.pop("producer", None)
        if connection := self.__dict__.pop("connection", None):
            with contextlib.suppress(Exception):  # it is broken
                connection.collect()  # AMQP would say goodbye first, and wait for a broker that hangs


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether a broker that is there refused one message, by *error*: of RabbitMQ, or of Redis for its queue."""
    # redis-py is not there with other brokers, and has no class for the second.
    return isinstance(error, MessageNacked) or type(error).__name__ == "NoPermissionError" or "WRONGTYPE " in str(error)


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
