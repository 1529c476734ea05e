"""The reception of guarded tasks' messages: before the pool has them, and when the pool refuses them.

All of it happens in the worker's main process, which takes, acknowledges and gives back messages: it acknowledges a
message in the same breath as it forwards it, and it never copies a message that goes back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Task
from celery.utils.imports import instantiate
from kombu import Queue

from celery_leader.election.limits import shown
from celery_leader.tasks.leader_only import TO_FOLLOWER_HEADER, LeaderOnly, leader_queue, mark_of
from celery_leader.worker.forwarding import FORWARDED_HEADER, Forwarder
from celery_leader.worker.queue import LeaderQueues

logger = logging.getLogger(__name__)

#: How long (seconds) a message is held before it goes back for the second time, or after it could not be forwarded.
PAUSE = 2.0
#: How long (seconds) a forwarded message is held when it came to a follower again.
LONG_PAUSE = 10.0
#: How often (seconds) the log says that messages can't be forwarded.
WARNED_EACH = 60.0


class GuardedStrategy:
    """A task's ``Strategy``: Celery's way with the messages of one guarded task."""

    def __init__(self, inner: Any) -> None:
        """Let *inner*, the strategy that the task had, handle the messages that may run."""
        self._inner = inner

    def __call__(self, task: Task, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
        """Return the function by which *consumer* handles each message."""
        handle: Callable[..., Any] = instantiate(self._inner, task, app, consumer, **options)
        reception: Reception | None = getattr(consumer, "leader_reception", None)
        return partial(reception.receive, task, handle) if reception else handle


class Reception:
    """Turns away the messages of guarded tasks that this worker may not run."""

    def __init__(self, consumer: Any, queues: LeaderQueues) -> None:
        """Serve *consumer*, whose leader's queues are *queues*."""
        self._consumer = consumer
        self._queues = queues
        self._errors = (*consumer.connection_errors, *consumer.channel_errors)  # others would end the worker
        self._held: set[Any] = set()
        self._forwarder = Forwarder(consumer.app)
        self._warned_at: float | None = None

    def stop(self) -> None:
        """Forget the messages that are held: the broker takes them back when their channel is closed."""
        self._held.clear()
        self._forwarder.close()

    def receive(
        self, task: Task, handle: Callable[..., Any], message: Any, body: Any, ack: Any, reject: Any, callbacks: Any
    ) -> Any:
        """Let *handle* have a message, or turn it away."""
        mark: LeaderOnly = mark_of(task)  # type: ignore[assignment]  # it is guarded
        _set_header(message, body, TO_FOLLOWER_HEADER, present=False)
        if not self._queues.accepts_work(mark.election):
            queue = leader_queue(task.app, mark.election)
            if came_by(queue, message.delivery_info):
                return self._go_back(message)
            if mark.on_follower == "forward":
                return self._forward(message, queue)
            _set_header(message, body, TO_FOLLOWER_HEADER, present=True)
        return handle(message, body, ack, partial(self._rejected, mark, message, reject), callbacks)

    def _rejected(
        self, mark: LeaderOnly, message: Any, reject: Any, logger: Any, errors: Any, requeue: bool = False
    ) -> None:
        """Give back a message that the pool refused. Called by any thread of the pool."""
        if _is_with_broker(message):
            return
        if not requeue:
            reject(logger, errors, requeue)
        elif _was_redelivered(message) or self._queues.accepts_work(mark.election):
            self._consumer.call_soon(self._hold, message, PAUSE, self._give_back)
        else:
            self._consumer.call_soon(self._give_back, message)

    # -- in the main loop --------------------------------------------------------------------------------------

    def _go_back(self, message: Any) -> None:
        """Let the broker have *message* back: at once, unless it came back before."""
        logger.info("%s goes back to the leader's queue: this worker does not lead", _name(message))
        self._queues.sync_soon()
        if _was_redelivered(message):
            self._hold(message, PAUSE, self._give_back)
        else:
            self._give_back(message)

    def _forward(self, message: Any, queue: Queue) -> None:
        if message.headers.get(FORWARDED_HEADER):  # more than one queue gets the messages for the leader's
            self._hold(message, LONG_PAUSE, partial(self._forward_now, queue=queue))
        else:
            self._forward_now(message, queue=queue)

    def _forward_now(self, message: Any, *, queue: Queue) -> None:
        try:
            self._forwarder.forward(message, queue)
        except Exception as error:  # noqa: BLE001  # no error may lose the message
            self._warn(message, queue, error)
            self._hold(message, PAUSE, self._give_back)
            return
        self._warned_at = None
        logger.info("%s forwarded to the leader's queue %s", _name(message), queue.name)
        message.ack_log_error(logger, self._errors)

    def _warn(self, message: Any, queue: Queue, error: Exception) -> None:
        now = time.monotonic()
        is_due = self._warned_at is None or now - self._warned_at >= WARNED_EACH
        self._warned_at = now if is_due else self._warned_at
        logger.log(
            logging.WARNING if is_due else logging.DEBUG,
            "%s can't be forwarded to the leader's queue %s and goes back in %.0f s: %s. This worker must be "
            "allowed to send to that queue, or the task be sent there in the first place.",
            _name(message), queue.name, PAUSE, shown(f"{type(error).__name__}: {error}"),
        )  # fmt: skip

    def _hold(self, message: Any, seconds: float, then: Callable[[Any], Any]) -> None:
        """Keep *message* for a while. Other messages come meanwhile, as for a task with a countdown."""
        self._held.add(message)
        self._consumer.qos.increment_eventually()
        self._consumer.timer.call_after(seconds, self._consumer.call_soon, (self._let_go, message, then))

    def _let_go(self, message: Any, then: Callable[[Any], Any]) -> None:
        if message in self._held:
            self._held.remove(message)
            self._consumer.qos.decrement_eventually()
            if not _is_with_broker(message):
                then(message)

    def _give_back(self, message: Any) -> None:
        if not message.acknowledged:  # a stopping worker may have; an error here would cost other messages their turn
            message.reject_log_error(logger, self._errors, requeue=True)


def came_by(queue: Queue, delivery_info: Any) -> bool:
    """Return whether a message came by *queue*: by its binding, or by the default exchange, which needs none."""
    exchange, routing_key = (delivery_info or {}).get("exchange"), (delivery_info or {}).get("routing_key")
    if not exchange:
        return bool(routing_key == queue.name)
    return bool(exchange == queue.exchange.name and routing_key == queue.routing_key)


def _set_header(message: Any, body: Any, name: str, *, present: bool) -> None:
    """Let the request of *message* have the header *name*, or not. Protocol 1 makes the request of the body."""
    for headers in (message.headers, body):
        if isinstance(headers, dict):
            headers.pop(name, None)
            if present:
                headers[name] = True


def _is_with_broker(message: Any) -> bool:
    """Return whether the channel of *message* is closed: the broker has it back, and another worker may have it."""
    return getattr(message.channel, "closed", False) is True


def _was_redelivered(message: Any) -> bool:
    return bool((message.delivery_info or {}).get("redelivered"))


def _name(message: Any) -> str:
    """Return the name of *message*'s task for logs. Anybody may have sent the message."""
    return shown(f"{message.headers.get('task', 'a task')}[{message.headers.get('id', '')}]")
