"""What becomes of messages when a worker stops warmly: each is acknowledged or goes back, once, and soon.

Celery lets go of the tasks that its pool has not accepted, and restores their messages when the last task has ended. A
task that a child began, and that the main process has not heard of, would run again elsewhere; and the child would
wait 30 s for its result to be read.
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

#: How long (seconds) children that were given a task may take to say that they have it, and a task that has ended to be
#: acknowledged.
PATIENCE = 1.0
#: How often (seconds) to look whether a thread has heard them.
LOOK_EACH = 0.02
#: A pop that waits longer than this (seconds) is left to the end of the worker, and how long its answer may take then.
LONGEST_POP, POP_MARGIN = 2.0, 0.5


def let_go_of_messages(worker: Any) -> None:
    """Consume no more, and give back what *worker* has not begun. No guarded task begins any more.

    Called before Celery lets go of anything. A cold shutdown takes less time than any of this.
    """
    if _is_cold():
        return
    consumer = worker.consumer
    running = [request for request in copied(worker_state.active_requests) if mark_of(request.task)]
    try:
        if is_connected := bool(consumer.connection and consumer.task_consumer):
            consumer.task_consumer.cancel()  # first: what goes back must not come again
        hear_children(worker.pool)
        give_back_guarded_work(consumer)
        if is_connected:
            finish_pop(consumer.task_consumer.channel)
        finish_threads(worker, running)
    except consumer.connection_errors as error:
        logger.info("The broker has all messages back: %s", error)
    except Exception:  # whatever it is, the worker must stop
        logger.exception("Messages that this worker has not begun go back when it ends, not now")


def hear_children(pool: Any) -> None:
    """Read all that the children of a prefork *pool* say, until each has said that it has the task it was given.

    What has begun by now was said by now. Other pools have no children to hear.
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
    """Let the broker have the guarded tasks back that have not begun, for the next leader."""
    for request in _guarded_work_that_has_not_begun():
        if request.acknowledged:  # a thread of the pool got to it meanwhile, and gave it back
            continue
        request.acknowledged = True  # first, so that none does
        request.message.reject_log_error(worker_logger, consumer.connection_errors, requeue=True)
        worker_state.reserved_requests.discard(request)  # the lease waits for those


def finish_pop(channel: Any) -> None:
    """Let kombu's Redis transport finish the pop (BRPOP) that it waits for; what it takes goes back at once.

    Left alone it would be read when the worker's last task has ended, and with it a message that nobody else got.
    """
    connection: Any = getattr(channel, "_in_poll", None)
    if not connection:
        return
    timeout = pop_timeout(channel.connection)
    if timeout and timeout < LONGEST_POP and wait([connection._sock], timeout + POP_MARGIN):
        with suppress(Empty):
            channel._brpop_read()


def finish_threads(worker: Any, running: list[Any]) -> None:
    """Turn the worker's loop until the guarded tasks that threads run, *running*, have ended and are acknowledged.

    Celery only waits for its threads. The broker would hear nothing meanwhile: no heartbeat, without which RabbitMQ
    delivers again what runs, and no acknowledgement of what has ended before the last task has, or is killed.
    """
    executor = getattr(worker.pool, "executor", None)
    if executor is None:
        return
    executor.shutdown(wait=False, cancel_futures=True)  # as Celery is about to do: nothing begins any more
    turns, deadline = _turns_of_loop(worker), 0.0
    while any(not request.message.acknowledged for request in running) and not _is_cold():
        if worker_state.active_requests.isdisjoint(running):  # one that can't be acknowledged is not waited for
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
    """Return whether a child was given a task, and has not said that it has it."""
    return any(getattr(job, "_write_to", None) and not job._accepted for job in tuple(children._cache.values()))


def _read(children: Any) -> None:
    """Read what children have said, as Celery's own pool does when it waits for its last tasks."""
    handler = children._result_handler
    for descriptor, reader in _readers(children):
        gone: set[int] = set()
        with suppress(OSError, EOFError):  # it has just ended
            while not gone and reader.poll(0):
                handler._flush_outqueue(descriptor, gone.add, children._fileno_to_outq, handler.on_state_change)


def _readers(children: Any) -> list[tuple[int, Any]]:
    """Return where to read what children say, by their descriptors."""
    found = [(descriptor, child.outq._reader) for descriptor, child in tuple(children._fileno_to_outq.items())]
    return [(descriptor, reader) for descriptor, reader in found if not reader.closed]
