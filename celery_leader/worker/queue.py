"""Consuming the leader's queues while a term lasts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from celery.worker import state as worker_state
from kombu import Queue

from celery_leader.leadership.campaign import Campaign
from celery_leader.tasks.checks import each_guarded_task
from celery_leader.tasks.leader_only import leader_queue, mark_of

logger = logging.getLogger(__name__)


class LeaderQueues:
    """The leader's queues of one worker: consumed exactly while it leads, and never by a worker that can't.

    The consumer is touched in the worker's main loop only. No exception may leave a callback of the loop: it would end
    the worker.
    """

    def __init__(self, consumer: Any, campaign: Campaign | None) -> None:
        """Follow the candidates of *campaign*, None for a worker that takes part in no election."""
        self._consumer = consumer
        self._candidates = campaign.candidates if campaign else {}
        elections = [*self._candidates, *(mark.election for _, mark in each_guarded_task(consumer.app))]
        self._queues = {election: leader_queue(consumer.app, election) for election in elections}
        for candidate in self._candidates.values():
            candidate.listen(lambda leads: self.sync_soon())

    def accepts_work(self, election: str) -> bool:
        """Return whether work that is reserved for the leader of *election* may begin in this worker now."""
        candidate = self._candidates.get(election)
        return candidate is not None and candidate.shared_trust.accepts_work()

    def start(self) -> None:
        """Add and cancel queues of a new task consumer, before it begins to consume."""
        for election, queue in self._queues.items():
            # Celery selects every queue that it knows of, unless -Q says otherwise.
            if queue.name in _consumed(self._consumer):
                self._consumer.task_consumer.cancel_by_queue(queue.name)
            if self.accepts_work(election):
                self._consumer.task_consumer.add_queue(queue)

    def sync_soon(self) -> None:
        """Add and cancel queues of the running task consumer soon. Any thread may call it."""
        self._consumer.call_soon(self._sync)

    def _sync(self) -> None:
        for election, queue in self._queues.items():
            try:
                self._sync_one(queue, wanted=self.accepts_work(election))
            except self._consumer.connection_errors:
                raise  # Celery reconnects, and start() does the rest
            except Exception:  # any other exception that leaves the loop's callback ends the worker
                logger.exception("The leader's queue of %r could not be followed", election)

    def _sync_one(self, queue: Queue, *, wanted: bool) -> None:
        task_consumer = self._consumer.task_consumer
        if task_consumer is None or self._consumer.connection is None:
            return  # reconnecting: start() will do it
        consuming = task_consumer.consuming_from(queue.name)
        if wanted and not consuming:
            task_consumer.add_queue(queue)
            task_consumer.consume()
            logger.info("Consuming the leader's queue %s", queue.name)
        elif consuming and not wanted:
            task_consumer.cancel_by_queue(queue.name)
            logger.info("Consuming the leader's queue %s no more", queue.name)


def runs_guarded_work(election: str) -> bool:
    """Return whether this worker's pool has a guarded task of *election*.

    A task that has not begun counts: it may begin at any moment, until it sees that it must not.
    """
    reserved = copied(worker_state.reserved_requests)
    with_pool = {request for request in reserved if request._apply_result is not None}  # noqa: SLF001  # there is nothing public
    requests = with_pool.union(copied(worker_state.active_requests))
    return any(mark.election == election for request in requests if (mark := mark_of(request.task)))


def copied(requests: Iterable[Any]) -> tuple[Any, ...]:
    """Return the members of a set that the main thread may change meanwhile: Python refuses to copy it then."""
    for _ in range(100):
        with contextlib.suppress(RuntimeError):
            return tuple(requests)
    raise RuntimeError("the worker's requests change too fast to be counted")


def _consumed(consumer: Any) -> set[str]:
    return {queue.name for queue in consumer.task_consumer.queues}
