"""Messages in a warm stop: each is acknowledged or goes back, once, and soon.

Celery drops the tasks that its pool has not accepted, and restores their messages when the last task has ended. A task
that a child has begun without the main process' knowledge would run again elsewhere, and the child would wait 30 s
until its result is read.
"""

# ruff: noqa: SLF001  # Celery, billiard and kombu have nothing public for any of this
from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import wait
from queue import Empty
from typing import Any

from celery.utils.log import worker_logger
from celery.worker import state as worker_state

from celery_leader.older_celery import pop_timeout, scheduled_requests
from celery_leader.tasks.leader_only import mark_of
from celery_leader.worker.queue import copied

logger = logging.getLogger(__name__)

#: How long (seconds) children may take to confirm that they have a task, and how long the acknowledgement of an ended
#: task may take.
PATIENCE = 1.0
#: How often (seconds) to look whether a thread has heard them.
LOOK_EACH = 0.02
#: The longest wait (seconds) of a pop that is finished at once, and how much longer its answer may take.
LONGEST_POP, POP_MARGIN = 2.0, 0.5


def let_go_of_messages(worker: Any) -> None:
    """Consume no more, and give back the guarded tasks that *worker* has not begun. None begins any more.

    Called before Celery drops anything. A cold shutdown has no time for this.
    """
    if _is_cold():
        return
    consumer = worker.consumer
    running = [request for request in copied(worker_state.active_requests) if mark_of(request.task)]
    try:
        if is_connected := bool(consumer.connection and consumer.task_consumer):
            consumer.task_consumer.cancel()  # first: a message that goes back must not come again
        hear_children(worker.pool)
        give_back_guarded_work(consumer)
        if is_connected:
            finish_pop(consumer.task_consumer.channel)
        finish_threads(worker, running)
    except consumer.connection_errors as error:
        logger.info("The broker has all messages back: %s", error)
    except Exception:  # no error may keep the worker from stopping
        logger.exception("The guarded tasks that this worker has not begun go back when it ends, not now")


def hear_children(pool: Any) -> None:
    """Read the reports of a prefork *pool*'s children, until each has confirmed the task that it was given.

    After that, every task that has begun is known. Other pools have no children.
    """
    children: Any = getattr(pool, "_pool", None)
    deadline = time.monotonic() + PATIENCE
    if hasattr(children, "_fileno_to_outq"):
        _read(children)
        while _is_silent(children) and (left := deadline - time.monotonic()) > 0:
            wait([reader for _, reader in _readers(children)], left)
            _read(children)
    elif hasattr(children, "_result_handler"):  # a thread reads, where the broker's transport has no event loop
        while _guarded_work_that_has_not_begun() and time.monotonic() < deadline:
            time.sleep(LOOK_EACH)


def give_back_guarded_work(consumer: Any) -> None:
    """Give the guarded tasks that have not begun back to the broker, for the next leader."""
    for request in _guarded_work_that_has_not_begun():
        if request.acknowledged:  # a thread of the pool got to it meanwhile, and gave it back
            continue
        request.acknowledged = True  # first, so that none does
        request.message.reject_log_error(worker_logger, consumer.connection_errors, requeue=True)
        worker_state.reserved_requests.discard(request)  # the lease waits for those


def finish_pop(channel: Any) -> None:
    """Let kombu's Redis transport finish its pending pop (BRPOP); a message that it takes goes back at once.

    Otherwise its answer would be read when the worker's last task has ended, and no other worker had its message.
    """
    connection: Any = getattr(channel, "_in_poll", None)
    if not connection:
        return
    timeout = pop_timeout(channel.connection)
    if timeout and timeout < LONGEST_POP and wait([connection._sock], timeout + POP_MARGIN):
        with suppress(Empty):
            channel._brpop_read()


def finish_threads(worker: Any, running: list[Any]) -> None:
    """Turn the worker's loop until *running*, the guarded tasks in threads, have ended and are acknowledged.

    Celery only waits for its threads. Meanwhile the broker would get no heartbeat, without which RabbitMQ delivers
    running tasks again, and no acknowledgement of ended tasks before the last task ends or is killed.
    """
    executor = getattr(worker.pool, "executor", None)
    if executor is None:
        return
    executor.shutdown(wait=False, cancel_futures=True)  # as Celery is about to do: no task begins any more
    turns, deadline = _turns_of_loop(worker), 0.0
    while any(not request.message.acknowledged for request in running) and not _is_cold():
        if worker_state.active_requests.isdisjoint(running):  # a task that can't be acknowledged gets no more time
            deadline = deadline or time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                return
        next(turns)


def _is_cold() -> bool:
    return worker_state.should_terminate not in (None, False)


def _turns_of_loop(worker: Any) -> Iterator[Any]:
    while True:
        if worker.hub:
            yield from worker.hub.create_loop()
        else:
            worker.consumer.perform_pending_operations()
            time.sleep(LOOK_EACH)
            yield


def _guarded_work_that_has_not_begun() -> list[Any]:
    requests = copied(worker_state.reserved_requests) + copied(scheduled_requests())
    begun = set(copied(worker_state.active_requests))
    return [each for each in requests if mark_of(each.task) and each not in begun and not each.acknowledged]


def _is_silent(children: Any) -> bool:
    """Return whether a child was given a task that it has not confirmed."""
    return any(getattr(job, "_write_to", None) and not job._accepted for job in tuple(children._cache.values()))


def _read(children: Any) -> None:
    """Read the children's reports, as Celery's own pool does when it waits for its last tasks."""
    handler = children._result_handler
    for descriptor, reader in _readers(children):
        gone: set[int] = set()
        with suppress(OSError, EOFError):  # the child has just ended
            while not gone and reader.poll(0):
                handler._flush_outqueue(descriptor, gone.add, children._fileno_to_outq, handler.on_state_change)


def _readers(children: Any) -> list[tuple[int, Any]]:
    """Return the pipes of the children's reports, by descriptor."""
    found = [(descriptor, child.outq._reader) for descriptor, child in tuple(children._fileno_to_outq.items())]
    return [(descriptor, reader) for descriptor, reader in found if not reader.closed]
