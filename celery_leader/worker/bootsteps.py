"""The steps by which an election lives in a worker.

``LeaderStep`` belongs to the worker's blueprint, so that the election survives lost connections to the broker; only
consumer steps restart then. ``LeaderQueueStep`` belongs to the consumer's: it knows when the consumer is ready, and
has the last hook of every way to shut down. ``EmbeddedBeatStep`` runs the beat.
"""

from __future__ import annotations

from typing import Any, ClassVar

from celery import bootsteps

from celery_leader.exceptions import ConfigurationError
from celery_leader.leadership.watch import Watch
from celery_leader.refusal import StartRefused, say_in_file
from celery_leader.tasks.checks import tell_of_hidden_guards
from celery_leader.worker.leadership import WorkerLeadership, wire
from celery_leader.worker.queue import LeaderQueues
from celery_leader.worker.reception import Reception
from celery_leader.worker.stopping import let_go_of_messages


class LeaderStep(bootsteps.StartStopStep):
    """Contends in the elections of a worker."""

    label = "Leader"
    requires: ClassVar = ("celery.worker.components:Pool",)

    def __init__(
        self,
        worker: Any,
        without_leader: bool = False,
        leader_beat: bool = False,
        beat: bool = False,
        **options: Any,
    ) -> None:
        """Wire the worker before any child is forked, and refuse to start with settings that can't work.

        Args:
            worker: Celery's worker.
            without_leader: The option ``--without-leader``.
            leader_beat: The option ``--leader-beat``.
            beat: Celery's option ``-B``.
            **options: The worker's other options.

        Raises:
            StartRefused: A setting is wrong, two options contradict each other, or the store can't be used.
        """
        super().__init__(worker, **options)
        worker.leader = None
        try:
            worker.leader, checks = wire(
                worker, takes_part=not without_leader, with_beat=leader_beat, has_other_beat=beat
            )
        except ConfigurationError as error:
            say_in_file(worker, str(error))
            raise StartRefused(str(error)) from error
        self._watch = Watch(checks)

    def start(self, worker: Any) -> None:
        """Start contending, after the pool has forked: a thread would not be in the children."""
        tell_of_hidden_guards(worker.app)
        if worker.leader:
            worker.leader.start()
        self._watch.start()

    def close(self, worker: Any) -> None:
        """Begin to hand over, before Celery drops its pool's tasks: no guarded task begins any more."""
        self._watch.stop()
        if worker.leader:
            worker.leader.drain()
            let_go_of_messages(worker)

    def info(self, worker: Any) -> dict[str, Any]:
        """Return the part of ``inspect stats``."""
        return {"leader": worker.leader.status()} if worker.leader else {}


class EmbeddedBeatStep(bootsteps.StartStopStep):
    """Runs a beat in a thread of the worker; the leader's sends."""

    label = "Leader beat"
    conditional = True
    requires: ClassVar = (LeaderStep,)

    def __init__(self, worker: Any, **options: Any) -> None:
        """Take part when the worker's leadership has a beat."""
        super().__init__(worker, **options)
        self.enabled = worker.leader is not None and worker.leader.beat is not None

    def start(self, worker: Any) -> None:
        """Start the thread, after the pool has forked."""
        worker.leader.beat.start()


class LeaderQueueStep(bootsteps.StartStopStep):
    """Consumes the leader's queues while a term lasts, and ends the election when the worker ends.

    It turns away guarded tasks in workers that take part in no election, too.
    """

    label = "Leader queue"
    requires: ClassVar = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Prepare for the messages of guarded tasks, before any is received."""
        super().__init__(consumer, **options)
        self._leadership: WorkerLeadership | None = getattr(consumer.controller, "leader", None)
        self._queues = LeaderQueues(consumer, self._leadership.campaign if self._leadership else None)
        self._reception = consumer.leader_reception = Reception(consumer, self._queues)
        self._heartbeat: Any = None

    def start(self, consumer: Any) -> None:
        """Begin to consume, at the start and after each reconnect: the worker is ready."""
        leadership = self._leadership
        self._queues.start()
        if leadership is None:
            return
        if not leadership.readiness.is_ready:
            leadership.readiness.loop_turned()
            leadership.campaign.wake()
        self._heartbeat = consumer.timer.call_repeatedly(1.0, consumer.call_soon, (leadership.readiness.loop_turned,))

    def stop(self, consumer: Any) -> None:
        """End the parts that belong to one connection."""
        self._reception.stop()
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    def shutdown(self, consumer: Any) -> None:
        """Release each lease that is still held: the last hook of a warm and of a cold shutdown."""
        if self._leadership is not None:
            self._leadership.stop()
