"""From a tick that is claimed to the broker, in bounded time: a beat that waits for a broker sends nothing else."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from amqp.exceptions import MessageNacked
from celery.beat import Scheduler, SchedulingError
from kombu.exceptions import OperationalError

from celery_leader.beat.leading import LeadingTerm
from celery_leader.beat.lean_kombu import asking_first, with_lasting_clients
from celery_leader.beat.message import Sending
from celery_leader.beat.outbox import Outcome
from celery_leader.beat.termination import CutOff, Termination
from celery_leader.election.alarm import Alarm, in_words
from celery_leader.election.limits import shown
from celery_leader.ledger import Claim

logger, celerys_logger = logging.getLogger(__name__), logging.getLogger("celery.beat")

#: AMQP's codes of a message that may be taken later: too large for the moment, no queue or no consumers, no
#: permission, no such exchange (or a queue whose home node is down), a locked queue, one that was declared otherwise.
_REFUSED = {311, 312, 313, 403, 404, 405, 406}


class PublisherMixin(Scheduler if TYPE_CHECKING else object):  # type: ignore[misc]  # Celery has no types
    """A scheduler's connection to the broker, and what to make of its errors."""

    #: The longest (seconds) to wait for a broker that keeps silent, where its transport can be told. What
    #: ``broker_transport_options`` say takes precedence.
    io_timeout: float
    _termination: Termination | None
    _leading: LeadingTerm | None = None
    _sending: Sending | None = None

    def _monotonic(self) -> float:
        return time.monotonic()

    @property
    def _away(self) -> Alarm:
        """The broker's absence, as far as the term has seen it. It is asked each second."""
        return self._leading.broker_away if self._leading else Alarm()

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
            connection.transport_cls = with_lasting_clients(transport)
        return connection

    @cached_property
    def producer(self) -> Any:
        """What to publish by; opens the connection."""
        producer = super().producer
        return asking_first(producer) if producer else producer

    def _ensure_connected(self) -> Any:
        """Open the connection if it is not, with one more try; the base would try for an hour."""
        return self.connection.ensure_connection(self._tell_of_error, 1, interval_start=0, interval_step=0)

    def _tell_of_error(self, error: Exception, interval: float) -> None:
        """Say what Celery's beat would say, once: it is asked each second."""
        if not self._away.is_on:
            celerys_logger.error("beat: Connection error: %s. Trying again in %s seconds...", error, interval)

    def is_reachable(self, claim: Claim) -> bool:
        """Return whether there is a connection to publish by, after one try to open it, for the run of *claim*."""
        if "producer" in self.__dict__:
            return True
        try:
            with self._cut_off_in_time():
                _ = self.producer
        except (Exception, CutOff) as error:  # noqa: BLE001  # whatever it is, it says nothing of the message
            self._has_failed(claim, error, Outcome.AWAY)
            return False
        return True

    def send_run(self, claim: Claim, token: int, send: Callable[[], Any]) -> Sending:
        """Let *send*, a method of the base, publish the messages of *claim* for the term *token*.

        Returns:
            What became of it. A run that can never be sent is out of our hands as well: it is given up, as Celery's
            own beat does.
        """
        sending, before = Sending(claim, token), self._sending
        self._sending = sending
        try:
            with self._without_tracebacks():
                sending.result = send()
        except (Exception, CutOff) as error:  # noqa: BLE001  # whatever it is: one run must not hold up the others
            if error is not sending.error:
                self._base_failed(sending, error)
        finally:
            self._sending = before
        if sending.outcome is Outcome.OUT and (lasted := self._away.over(self._monotonic())) is not None:
            logger.warning("The broker takes messages again after %s", in_words(lasted))
        return sending

    def publish(self, sending: Sending, entry: Any, producer: Any, **kwargs: Any) -> Any:
        """Have the base publish the next message of a run; see :meth:`celery.beat.Scheduler.apply_async`.

        Raises:
            SchedulingError: It could not be published, or the run's last message found the broker away.
        """
        if sending.outcome >= Outcome.AWAY:
            raise SchedulingError(f"{entry.name}: its messages are sent when the broker is back")
        try:
            with sending.next_message(entry), self._cut_off_in_time():
                if producer is None or "producer" not in self.__dict__:  # the channel of the one given was closed since
                    producer = self.producer
                return super().apply_async(entry, producer=producer, **kwargs)
        except (Exception, CutOff) as error:
            cause = error.__context__ if isinstance(error, SchedulingError) else error
            sending.failed(error, self._has_failed(sending.claim, cause, self.outcome_of(cause)))
            raise

    @contextlib.contextmanager
    def _without_tracebacks(self) -> Iterator[None]:
        """While the broker is away, keep Celery from saying at each try that a message failed: that was said."""
        if not self._away.is_on:
            yield
            return
        celerys_logger.addFilter(_tells_of_no_failure)
        try:
            yield
        finally:
            celerys_logger.removeFilter(_tells_of_no_failure)

    def should_sync(self) -> bool:
        """Not while a message is published, as Celery would: its entry has that message's options for the moment."""
        return self._sending is None and bool(super().should_sync())

    def _cut_off_in_time(self) -> contextlib.AbstractContextManager[None]:
        return self._termination.cutting_off() if self._termination else contextlib.nullcontext()

    @staticmethod
    def _base_failed(sending: Sending, error: BaseException) -> None:
        """Note that the base's own code raised. What it had not begun to send is offered to it again later."""
        sending.failed(error, Outcome.OUT if sending.messages else Outcome.REFUSED)
        tick = sending.claim.tick
        logger.error("%s, due at %s, %s: its scheduler raised %r", shown(tick.entry), tick.due_at,
                     "is not sent in full" if sending.messages else "stays claimed", error, exc_info=error)  # fmt: skip

    def _has_failed(self, claim: Claim, cause: BaseException | None, outcome: Outcome) -> Outcome:
        self._forget_channel() if outcome is Outcome.REFUSED else self.forget_connection()
        tick, was_away = claim.tick, self._away.is_on
        if outcome is Outcome.OUT:
            logger.error("%s, due at %s, can't be sent and is given up: %s", shown(tick.entry), tick.due_at, cause)
        elif outcome is Outcome.AWAY and (lasted := self._away.due(self._monotonic())):
            logger.error("The broker has taken no message for %s, so periodic tasks are NOT sent; they stay claimed "
                         "until it is back: %s", in_words(lasted), cause)  # fmt: skip
        else:
            logger.log(logging.DEBUG if was_away and outcome is Outcome.AWAY else logging.ERROR,
                       "%s, due at %s, stays claimed, the broker does not take it: %s",
                       shown(tick.entry), tick.due_at, cause)  # fmt: skip
        if outcome is Outcome.REFUSED:
            self._away.over(self._monotonic())
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


def _tells_of_no_failure(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Message Error")


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether a broker that is there refused one message, by *error*: of RabbitMQ, or of Redis for its queue."""
    # redis-py is not there with other brokers, and has no class for the second.
    return isinstance(error, MessageNacked) or type(error).__name__ == "NoPermissionError" or "WRONGTYPE " in str(error)
