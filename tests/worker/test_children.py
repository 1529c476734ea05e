"""What a stopping worker hears of real children, and what it does with a real pop that waits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import kombu
import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from celery_leader.worker import stopping
from celery_leader.worker.stopping import finish_pop, hear_children
from tests.servers import RedisServer
from tests.waiting import eventually


class Children:
    """A prefork pool of one child, with the event loop that writes to it and reads from it."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.pool = AsynPool(processes=1, synack=False, threads=False)
        self.pool.register_with_event_loop(self.hub)
        self._loop = self.hub.create_loop()

    @property
    def process(self) -> int:
        """The id of the child's process."""
        pid: int = self.pool._pool[0].pid  # nothing public tells
        return pid

    def turn_until(self, condition: Callable[[], Any]) -> None:
        """Turn the event loop until *condition* holds, and not once more."""

        def turned() -> Any:
            return condition() or (next(self._loop), False)[1]

        eventually(turned, interval=0)

    def give(self, function: Callable[..., Any], *args: Any) -> Any:
        """Write a job to the child; return it. What the child says of it is not read."""
        job = self.pool.apply_async(function, args)
        self.turn_until(lambda: job._write_to)  # nothing public tells
        return job

    def close(self) -> None:
        """End the child, which must have read what it was given: billiard would read it, too, and one of them hang."""
        self.pool.terminate()
        self.pool.join()
        self.hub.close()


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children()
    made.turn_until(made.pool.apply_async(os.getpid).ready)
    yield made
    made.close()


def hear(children: Children) -> float:
    """Hear the children as a stopping worker does; return how long (seconds) that took."""
    begun = time.monotonic()
    hear_children(SimpleNamespace(_pool=children.pool))
    return time.monotonic() - begun


def test_a_child_that_was_just_given_a_task_is_heard(children: Children) -> None:
    """It has begun, and says so in a moment; that is not missed, and nobody waits for the task's end."""
    job = children.give(time.sleep, 30)
    assert not job._accepted
    assert hear(children) < stopping.PATIENCE
    assert job._accepted
    assert not job.ready()


def test_what_children_have_said_is_read_whole(children: Children) -> None:
    """A short task is over by then."""
    job = children.give(os.getpid)
    eventually(lambda: hear(children) >= 0 and job.ready())
    assert job.get() == children.process


def test_nobody_waits_for_children_without_a_task(children: Children) -> None:
    """Nothing is to be heard of them."""
    assert hear(children) < stopping.PATIENCE / 2


def test_a_silent_child_is_not_waited_for_long(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that stands still says nothing."""
    monkeypatch.setattr(stopping, "PATIENCE", 0.3)
    os.kill(children.process, signal.SIGSTOP)
    job = children.give(os.getpid)
    try:
        assert 0.3 <= hear(children) < 3.0
        assert not job._accepted
    finally:
        os.kill(children.process, signal.SIGCONT)
        children.turn_until(job.ready)


@pytest.fixture
def channel(redis_server: RedisServer) -> Iterator[Any]:
    """A channel whose pop waits in Redis, though its consumer was cancelled."""
    with kombu.Connection(redis_server.url) as connection:
        opened: Any = connection.channel()
        consumer = kombu.Consumer(opened, [kombu.Queue("popped")])
        consumer.consume()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        assert opened._in_poll
        consumer.cancel()
        yield opened
        opened.client.delete("popped")


def waiting(redis_server: RedisServer) -> int:
    """Return how many messages wait in the queue."""
    with kombu.Connection(redis_server.url) as connection:
        channel: Any = connection.channel()
        return int(channel.client.llen("popped"))


def test_a_message_that_a_pop_took_goes_back_at_once(channel: Any, redis_server: RedisServer) -> None:
    """Nobody consumes here any more."""
    with kombu.Connection(redis_server.url) as other:
        other.Producer().publish("it", routing_key="popped", declare=[kombu.Queue("popped")])
    assert waiting(redis_server) == 0
    finish_pop(channel)
    assert waiting(redis_server) == 1


def test_a_pop_that_takes_nothing_is_finished(channel: Any) -> None:
    """Redis ends it after its timeout."""
    begun = time.monotonic()
    finish_pop(channel)
    assert time.monotonic() - begun < 2.0
    assert not channel._in_poll


@pytest.mark.parametrize("timeout", [0, 60])
def test_a_pop_that_waits_long_is_left_alone(channel: Any, timeout: float) -> None:
    """Zero means for ever."""
    channel.connection.brpop_timeout = timeout
    begun = time.monotonic()
    finish_pop(channel)
    assert time.monotonic() - begun < 1.0
    assert channel._in_poll


def test_other_channels_have_no_pop() -> None:
    """RabbitMQ's, or one of Redis' that waits for nothing."""
    finish_pop(SimpleNamespace())
    finish_pop(SimpleNamespace(_in_poll=None))
