"""From a claimed tick to the broker: its messages, and the meaning of the broker's errors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from amqp.exceptions import MessageNacked
from celery.beat import SchedulingError
from kombu.exceptions import OperationalError

from celery_leader.beat.catch_up import POLICY_OPTION, WINDOW_OPTION
from celery_leader.beat.connection import cut
from celery_leader.beat.due_times import Entry, message_id
from celery_leader.beat.outbox import Outcome
from celery_leader.election.alarm import Alarm, in_words
from celery_leader.election.limits import shown
from celery_leader.ledger import DUE_HEADER, TOKEN_HEADER, Claim

logger, celerys_logger = logging.getLogger(__name__), logging.getLogger("celery.beat")

#: AMQP's codes of a message that may be taken later: too large for the moment, no queue or no consumers, no
#: permission, no such exchange (or a queue whose home node is down), a locked queue, one that was declared otherwise.
_REFUSED = {311, 312, 313, 403, 404, 405, 406}
#: For publishing: one more try at once, for a connection that was cut while it was idle. What fails then stays claimed,
#: and is sent when the broker is back.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}


class Sending:
    """One run on its way to the broker.

    Most schedulers publish one message a run; some publish several, such as one a tenant. The n-th message of a run
    has the same id for each sender and each sending.
    """

    def __init__(self, claim: Claim, token: int) -> None:
        """Begin to send the run of *claim* in the term *token*."""
        self.claim = claim
        #: How many messages the scheduler asked for so far.
        self.messages = 0
        #: The outcome of the run: the worst of its messages'.
        self.outcome = Outcome.OUT
        #: The last error, and the result of the scheduler's method.
        self.error: Exception | None = None
        self.result: Any = None
        self._token = token

    def is_of(self, entry: Entry) -> bool:
        """Return whether it is *entry* whose run is sent."""
        return bool(entry.name == self.claim.tick.entry)

    def failed(self, error: Exception, outcome: Outcome) -> None:
        """Note that one message could not be sent, and its outcome."""
        self.error = error
        self.outcome = max(self.outcome, outcome)

    def raise_or_return(self) -> Any:
        """Return the result of the scheduler's method, or raise its error."""
        if self.error:
            raise self.error
        return self.result

    @contextlib.contextmanager
    def next_message(self, entry: Entry) -> Iterator[None]:
        """Give *entry* the id and the headers of its next message until the block ends.

        The entry itself is changed, because not all kinds of entries can be copied.
        """
        before = entry.options
        # Only with a retry does kombu tell errors that may pass from those that won't.
        options = {"retry_policy": RETRY_POLICY, **before, "retry": True}
        options["task_id"] = message_id(self.claim.task_id, self.messages)
        headers = {**(options.pop("headers", None) or {})}
        for ours in (POLICY_OPTION, WINDOW_OPTION):
            options.pop(ours, None)
            headers.pop(ours, None)
        headers[DUE_HEADER] = self.claim.tick.due_at.isoformat()
        headers[TOKEN_HEADER] = str(self._token)
        entry.options = {**options, "headers": headers}
        self.messages += 1
        try:
            yield
        finally:
            entry.options = before


class Publisher:
    """Publishes the messages of claimed runs, by the scheduler's own methods and connection."""

    def __init__(self, scheduler: Any) -> None:
        """Prepare for *scheduler*, whose ``connection`` and ``producer`` are cached properties, as Celery's are."""
        #: The broker's absence, as far as the term has seen it. A beat asks the broker each second.
        self.away = Alarm()
        #: The run that is being sent.
        self.sending: Sending | None = None
        #: Whether a stopping beat has cut the connection: no error is a message's own then, and nothing more is sent.
        self.was_cut = False
        self._scheduler = scheduler

    def connection_failed(self, error: Exception, interval: float) -> None:
        """Log what Celery's beat would log, once an outage.

        Raises:
            Exception: *error*, once the connection was cut: a stopping beat does not try again.
        """
        if self.was_cut:
            raise error
        if not self.away.is_on:
            celerys_logger.error("beat: Connection error: %s. Trying again in %s seconds...", error, interval)

    def cut(self) -> None:
        """Fail a wait for the broker; any thread may call it."""
        self.was_cut = True
        if connection := vars(self._scheduler).get("connection"):
            cut(connection)

    def is_reachable(self, claim: Claim) -> bool:
        """Return whether there is a connection to publish by, after one try to open it, for the run of *claim*."""
        if self._has_producer:
            return True
        try:
            _ = self._scheduler.producer
        except Exception as error:  # noqa: BLE001  # no error of connecting is one of the message
            self._note_failure(claim, error, Outcome.AWAY)
            return False
        return True

    def send(self, claim: Claim, token: int, send: Callable[[], Any]) -> Sending:
        """Let *send*, a method of the base, publish the messages of *claim* for the term *token*.

        Returns:
            The run with its outcome. A run that can never be sent is out of our hands as well: it is given up, as
            Celery's own beat does.
        """
        sending, before = Sending(claim, token), self.sending
        self.sending = sending
        try:
            with self._without_tracebacks():
                sending.result = send()
        except Exception as error:  # noqa: BLE001  # one run must not hold up the others
            if error is not sending.error:
                self._base_failed(sending, error)
        finally:
            self.sending = before
        if sending.outcome is Outcome.OUT and (lasted := self.away.over(self._scheduler.monotonic())) is not None:
            logger.warning("The broker takes messages again after %s", in_words(lasted))
        return sending

    def publish(self, sending: Sending, entry: Entry, producer: Any, publish: Callable[..., Any]) -> Any:
        """Let *publish*, the base's ``apply_async``, publish the next message of a run by a producer.

        Raises:
            SchedulingError: It could not be published, or an earlier message of the run found the broker away.
        """
        if sending.outcome >= Outcome.AWAY:
            raise SchedulingError(f"{entry.name}: its messages are sent when the broker is back")
        try:
            with sending.next_message(entry):
                if producer is None or not self._has_producer:  # the channel of the one given was closed since
                    producer = self._scheduler.producer
                return publish(producer=producer)
        except Exception as error:
            cause = error.__context__ if isinstance(error, SchedulingError) else error
            outcome = Outcome.AWAY if self.was_cut else self.outcome_of(cause)
            sending.failed(error, self._note_failure(sending.claim, cause, outcome))
            raise

    @contextlib.contextmanager
    def _without_tracebacks(self) -> Iterator[None]:
        """While the broker is away, keep Celery from logging each failed try: the absence is logged already."""
        if not self.away.is_on:
            yield
            return
        celerys_logger.addFilter(_tells_of_no_failure)
        try:
            yield
        finally:
            celerys_logger.removeFilter(_tells_of_no_failure)

    @property
    def _has_producer(self) -> bool:
        return "producer" in vars(self._scheduler)

    @staticmethod
    def _base_failed(sending: Sending, error: Exception) -> None:
        """Note that the base's own code raised. A run that it had not begun to send is offered again later."""
        sending.failed(error, Outcome.OUT if sending.messages else Outcome.REFUSED)
        tick = sending.claim.tick
        logger.error("%s, due at %s, %s: its scheduler raised %r", shown(tick.entry), tick.due_at,
                     "is not sent in full" if sending.messages else "stays claimed", error, exc_info=error)  # fmt: skip

    def _note_failure(self, claim: Claim, cause: BaseException | None, outcome: Outcome) -> Outcome:
        self._forget_channel() if outcome is Outcome.REFUSED else self.forget_connection()
        tick, was_away = claim.tick, self.away.is_on
        if outcome is Outcome.OUT:
            logger.error("%s, due at %s, can't be sent and is given up: %s", shown(tick.entry), tick.due_at, cause)
        elif outcome is Outcome.AWAY and (lasted := self.away.due(self._scheduler.monotonic())):
            logger.error("The broker has taken no message for %s, so periodic tasks are NOT sent; they stay claimed "
                         "until it is back: %s", in_words(lasted), cause)  # fmt: skip
        else:
            logger.log(logging.DEBUG if was_away and outcome is Outcome.AWAY else logging.ERROR,
                       "%s, due at %s, stays claimed, the broker does not take it: %s",
                       shown(tick.entry), tick.due_at, cause)  # fmt: skip
        if outcome is Outcome.REFUSED:
            self.away.over(self._scheduler.monotonic())
        return outcome

    def outcome_of(self, cause: BaseException | None) -> Outcome:
        """Return whether *cause*, an error of publishing, is the message's or the broker's.

        kombu tries again, and makes one error of all temporary ones. The others are the message's: an argument that is
        computed when the message is sent may raise an OSError as well.
        """
        if getattr(cause, "reply_code", None) in _REFUSED or _is_refusal(cause and cause.__cause__):
            return Outcome.REFUSED
        if isinstance(cause, OperationalError):
            return Outcome.AWAY
        of_connection = self._scheduler.connection.connection_errors
        is_away = isinstance(cause, of_connection) and not isinstance(cause, (KeyError, OSError))
        return Outcome.AWAY if is_away else Outcome.OUT

    def _forget_channel(self) -> None:
        """Let the next message have a new channel: AMQP closes one on which it refused something."""
        vars(self._scheduler).pop("producer", None)
        with contextlib.suppress(Exception):  # the next message finds out
            self._scheduler.connection.revive(None)

    def forget_connection(self) -> None:
        """Let the next message have a new connection."""
        vars(self._scheduler).pop("producer", None)
        if connection := vars(self._scheduler).pop("connection", None):
            with contextlib.suppress(Exception):  # it is broken
                connection.collect()  # AMQP would say goodbye first, and wait for a broker that hangs


def _tells_of_no_failure(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Message Error")


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether a broker that is there refused one message, by *error*: of RabbitMQ, or of Redis for its queue."""
    # redis-py is not there with other brokers, and has no class for the second.
    return isinstance(error, MessageNacked) or type(error).__name__ == "NoPermissionError" or "WRONGTYPE " in str(error)
