"""Consuming the leader's queues while a term lasts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from celery.worker import state as worker_state
from kombu import Queue

from celery_leader.leadership.campaign import Campaign, Candidate
from celery_leader.tasks.leader_only import leader_queue, mark_of

logger = logging.getLogger(__name__)


class LeaderQueues:
    """The leader's queues of one worker: consumed exactly while it leads.

    Everything that touches the consumer runs in the worker's main loop, and nothing that fails there may get out: an
    exception in a callback of the loop ends the worker.
    """

    def __init__(self, consumer: Any, campaign: Campaign) -> None:
        """Follow the candidates of *campaign*."""
        self._consumer = consumer
        self._candidates = campaign.candidates
        self._queues: dict[str, Queue] = {}
        for candidate in self._candidates.values():
            candidate.listen(self._sync_soon)

    def start(self) -> None:
        """Bring a new task consumer in line, before it begins to consume."""
        for candidate in self._candidates.values():
            queue = self._queue(candidate)
            # Celery selects every queue that it knows of, unless -Q says otherwise.
            if queue.name in _consumed(self._consumer):
                self._consumer.task_consumer.cancel_by_queue(queue.name)
            if candidate.cell.accepts_work():
                self._consumer.task_consumer.add_queue(queue)

    def _sync_soon(self, leads: bool) -> None:
        self._consumer.call_soon(self._sync)

    def _sync(self) -> None:
        """Bring the running task consumer in line; harmless to repeat."""
        for candidate in self._candidates.values():
            try:
                self._sync_one(candidate)
            except self._consumer.connection_errors:
                raise  # Celery reconnects, and start() does the rest
            except Exception:  # anything else that gets out of the loop's callback ends the worker
                logger.exception("The leader's queue of %r could not be followed", candidate.election)

    def _sync_one(self, candidate: Candidate) -> None:
        task_consumer = self._consumer.task_consumer
        if task_consumer is None or self._consumer.connection is None:
            return  # reconnecting: start() will do it
        queue, wanted = self._queue(candidate), candidate.cell.accepts_work()
        consuming = task_consumer.consuming_from(queue.name)
        if wanted and not consuming:
            task_consumer.add_queue(queue)
            task_consumer.consume()
            logger.info("Consuming the leader's queue %s", queue.name)
        elif consuming and not wanted:
            task_consumer.cancel_by_queue(queue.name)
            logger.info("Consuming the leader's queue %s no more", queue.name)

    def _queue(self, candidate: Candidate) -> Queue:
        if candidate.election not in self._queues:
            self._queues[candidate.election] = leader_queue(self._consumer.app, candidate.election)
        return self._queues[candidate.election]


def runs_guarded_work(election: str) -> bool:
    """Return whether a task that is reserved for the leader of *election* is with this worker's pool.

    One that the pool has but has not begun counts: it may begin at any moment, until it sees that it may not.
    """
    reserved = _copy(worker_state.reserved_requests)
    with_pool = {request for request in reserved if request._apply_result is not None}  # noqa: SLF001  # nothing public tells
    requests = with_pool.union(_copy(worker_state.active_requests))
    return any(mark.election == election for request in requests if (mark := mark_of(request.task)))


def _consumed(consumer: Any) -> set[str]:
    return {queue.name for queue in consumer.task_consumer.queues}


def _copy(requests: Iterable[Any]) -> tuple[Any, ...]:
    """Copy a set that the main thread may change meanwhile, which Python refuses when it notices."""
    for _ in range(100):
        with contextlib.suppress(RuntimeError):
            return tuple(requests)
    raise RuntimeError("the worker's requests change too fast to be counted")
