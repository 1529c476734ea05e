"""What a worker's main process does with the messages of guarded tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

import celery_leader
from celery_leader import leader_only
from celery_leader.tasks.leader_only import TO_FOLLOWER_HEADER, leader_queue
from celery_leader.worker import reception as reception_module
from celery_leader.worker.forwarding import FORWARDED_HEADER, Forwarder
from celery_leader.worker.leadership import receive_guarded_tasks
from celery_leader.worker.reception import LONG_PAUSE, PAUSE, GuardedStrategy, Reception, came_by
from tests.tasks.deliveries import taken


def run_anything(*args: Any, **kwargs: Any) -> None:
    """Stand for a task's code, which no test here runs."""


class Timer:
    """Calls when the test says that time has passed."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[..., Any], tuple[Any, ...]]] = []

    def call_after(self, seconds: float, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.waiting.append((seconds, call, args))

    def pass_time(self) -> list[float]:
        """Let all that waits happen; return how long each waited."""
        waiting, self.waiting = self.waiting, []
        for _, call, args in waiting:
            call(*args)
        return [seconds for seconds, _, _ in waiting]


class Consumer:
    """As much of a consumer as a reception sees."""

    connection_errors = (OSError,)
    channel_errors = (LookupError,)

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.timer = Timer()
        self.extra = 0
        self.qos = self

    def increment_eventually(self) -> None:
        self.extra += 1

    def decrement_eventually(self) -> None:
        self.extra -= 1

    def call_soon(self, call: Callable[..., Any], *args: Any) -> None:
        call(*args)


class Queues:
    """A worker's leader's queues."""

    def __init__(self) -> None:
        self.leads = False
        self.synced = 0

    def accepts_work(self, election: str) -> bool:
        return self.leads

    def sync_soon(self) -> None:
        self.synced += 1


class Desk:
    """A reception, and what came of each message."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.consumer, self.queues = Consumer(app), Queues()
        self.reception = self.consumer.leader_reception = Reception(self.consumer, self.queues)  # type: ignore[attr-defined, arg-type]
        self.handled: list[Any] = []
        self.reject: Any = None
        self._connection = app.connection()
        self._channel = self._connection.default_channel

    def send(self, name: str, queue: str | Queue = "celery", **options: Any) -> None:
        """Put a task's message into *queue*, past the router, by the default exchange."""
        queue = queue.name if isinstance(queue, Queue) else queue
        self.app.send_task(name, queue=Queue(queue, Exchange(""), routing_key=queue), **options)

    def receive(self, queue: str | Queue = "celery", body: Any = None, **delivery_info: Any) -> Any:
        """Let the worker have the next message of *queue*; return it."""
        message = self._channel.basic_get(queue.name if isinstance(queue, Queue) else queue)
        message.delivery_info.update(delivery_info)
        task = self.app.tasks[message.headers["task"]]
        strategy = GuardedStrategy(lambda task, app, consumer: self._handle)(task, self.app, self.consumer)
        strategy(message, body, "ack", lambda logger, errors, requeue: message.reject(requeue=requeue), [])
        return message

    def _handle(self, message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        self.handled.append(message)
        self.reject = reject

    def pool_rejects(self) -> None:
        """Let the pool give the last message back, as a worker's request does."""
        self.reject(logging.getLogger(), (), True)

    def close(self) -> None:
        self.reception.stop()
        self._connection.release()


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", leader_elections=["default", "reports"])
    celery_leader.setup(app)
    for on_follower in ("forward", "skip", "raise"):
        app.task(name=f"{on_follower}s", shared=False)(leader_only(on_follower=on_follower)(run_anything))
    app.finalize()
    for queue in ("celery", "other", leader_queue(app, "default")):
        taken(app, queue)
    yield app
    app.close()


@pytest.fixture
def desk(app: Celery) -> Iterator[Desk]:
    desk = Desk(app)
    yield desk
    desk.close()


@pytest.fixture
def leaders(app: Celery) -> Queue:
    """The leader's queue."""
    return leader_queue(app, "default")


def test_a_leader_hands_messages_to_its_pool(desk: Desk, leaders: Queue) -> None:
    """By whatever queue they came."""
    desk.queues.leads = True
    for queue in ("celery", leaders):
        desk.send("forwards", queue)
        assert desk.receive(queue) is desk.handled[-1]


def test_a_follower_gives_back_what_came_by_the_leaders_queue(desk: Desk, leaders: Queue) -> None:
    """Whatever the task says of other messages. It stays one message, and the worker consumes no more if it did."""
    for name in ("forwards", "skips", "raises"):
        desk.send(name, leaders)
        message = desk.receive(leaders)
        assert message._state == "REJECTED"
        assert [each.headers["id"] for each in taken(desk.app, leaders)] == [message.headers["id"]]
    assert desk.queues.synced == 3
    assert desk.handled == []


def test_a_message_that_came_back_waits(desk: Desk, leaders: Queue) -> None:
    """Nothing goes round and round at full speed; other messages come meanwhile."""
    desk.send("forwards", leaders)
    message = desk.receive(leaders, redelivered=True)
    assert (message._state, desk.consumer.extra) == ("RECEIVED", 1)
    assert desk.consumer.timer.pass_time() == [PAUSE]
    assert (message._state, desk.consumer.extra) == ("REJECTED", 0)


def test_a_follower_forwards_what_came_by_another_queue(desk: Desk, leaders: Queue) -> None:
    """As it is: the same message, and its own is acknowledged."""
    desk.send("forwards", args=(4,), kwargs={"a": 1}, priority=3, countdown=60, headers={"mine": "x"},
              task_id="an-id", compression="gzip", reply_to="me")  # fmt: skip
    message = desk.receive()
    (forwarded,) = taken(desk.app, leaders)
    assert message._state == "ACK"
    assert {**message.headers, FORWARDED_HEADER: True} == forwarded.headers
    assert forwarded.payload == message.payload
    assert forwarded.payload[:2] == [[4], {"a": 1}]
    assert (forwarded.headers["id"], forwarded.headers["mine"]) == ("an-id", "x")
    kept = ("correlation_id", "delivery_mode", "priority", "reply_to")
    assert [forwarded.properties[name] for name in kept] == [message.properties[name] for name in kept]
    assert desk.handled == []


def test_a_message_that_was_forwarded_and_came_again_waits_long(desk: Desk, leaders: Queue) -> None:
    """More than one queue gets what is sent to the leader's: followers would forward it to each other for ever."""
    desk.send("forwards", headers={FORWARDED_HEADER: True})
    desk.receive()
    assert taken(desk.app, leaders) == []
    assert desk.consumer.timer.pass_time() == [LONG_PAUSE]
    assert len(taken(desk.app, leaders)) == 1


def test_what_can_not_be_forwarded_goes_back_after_a_pause(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost. The log says it once a minute, in a line of bounded length."""

    def refuse(self: Forwarder, message: Any, queue: Queue) -> None:
        raise OSError("no permission " * 1000)

    now = [0.0]
    monkeypatch.setattr(Forwarder, "forward", refuse)
    monkeypatch.setattr(reception_module.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "celery_leader")
    desk.send("forwards")
    for second in (0, 1, 59, 60, 61):
        now[0] = second
        message = desk.receive()
        assert desk.consumer.timer.pass_time() == [PAUSE]
        assert message._state == "REJECTED"
    assert len(caplog.records) == 2
    assert all(record.levelname == "WARNING" and len(record.getMessage()) < 600 for record in caplog.records)
    assert "can't be forwarded to the leader's queue celery-leader.default" in caplog.text


@pytest.mark.parametrize("name", ["skips", "raises"])
def test_what_is_skipped_or_raises_is_the_pools(desk: Desk, name: str) -> None:
    """The message says that it came to a follower. One that says so by itself, and came to a leader, does not."""
    desk.send(name)
    assert desk.receive().headers[TO_FOLLOWER_HEADER] is True
    desk.queues.leads = True
    desk.send(name, headers={TO_FOLLOWER_HEADER: True})
    assert TO_FOLLOWER_HEADER not in desk.receive().headers


def test_the_first_protocol_says_it_in_the_body(desk: Desk) -> None:
    """Workers make the request of it."""
    body: dict[str, Any] = {"task": "skips", "id": "1"}
    desk.send("skips")
    desk.receive(body=body)
    assert body[TO_FOLLOWER_HEADER] is True


def test_what_the_pool_refuses_goes_back_at_once(desk: Desk, leaders: Queue) -> None:
    """The lease has ended since: the next leader waits for it."""
    desk.queues.leads = True
    desk.send("forwards", leaders)
    message = desk.receive(leaders)
    desk.queues.leads = False
    desk.pool_rejects()
    assert message._state == "REJECTED"


@pytest.mark.parametrize(("leads", "redelivered"), [(True, False), (False, True)])
def test_what_the_pool_refuses_again_and_again_waits(
    desk: Desk, leaders: Queue, leads: bool, redelivered: bool
) -> None:
    """Or would be delivered to this very worker, which believes to lead while its pool does not."""
    desk.queues.leads = True
    desk.send("forwards", leaders)
    message = desk.receive(leaders, redelivered=redelivered)
    desk.queues.leads = leads
    desk.pool_rejects()
    assert message._state == "RECEIVED"
    assert desk.consumer.timer.pass_time() == [PAUSE]
    assert message._state == "REJECTED"


def test_a_broker_that_takes_nothing_back_does_not_end_the_worker(
    desk: Desk, leaders: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its user may not write, say. The message stays with the worker's channel."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise LookupError("no permission")

    desk.send("forwards", leaders)
    monkeypatch.setattr(desk._channel, "basic_reject", refuse)
    assert desk.receive(leaders)._state == "RECEIVED"
    assert "no permission" in caplog.text


def test_a_name_that_would_forge_a_line_is_shown(desk: Desk, leaders: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever sends a message chooses its id."""
    caplog.set_level(logging.INFO, "celery_leader")
    desk.send("forwards", leaders, task_id="1\n[ERROR] all is lost" + "x" * 500)
    desk.receive(leaders)
    assert "forwards[1\\n[ERROR] all is lost" in caplog.text
    assert all(len(record.getMessage()) < 300 for record in caplog.records)


def test_what_a_stopping_worker_gave_back_is_left_alone(desk: Desk, leaders: Queue) -> None:
    """A second return is an error, and what the worker's loop has yet to do would be lost by it."""
    desk.queues.leads = True
    desk.send("forwards", leaders)
    message = desk.receive(leaders)
    desk.queues.leads = False
    message.reject(requeue=True)
    desk.pool_rejects()
    assert len(taken(desk.app, leaders)) == 1


def test_what_is_dropped_is_not_held(desk: Desk, leaders: Queue) -> None:
    """A task may reject its message for good."""
    desk.queues.leads = True
    desk.send("forwards", leaders)
    message = desk.receive(leaders)
    desk.reject(logging.getLogger(), (), False)
    assert message._state == "REJECTED"
    assert taken(desk.app, leaders) == []


def test_what_is_held_is_left_to_the_broker_when_the_connection_ends(desk: Desk, leaders: Queue) -> None:
    """It has it back then, and another worker may have it."""
    desk.send("forwards", leaders)
    message = desk.receive(leaders, redelivered=True)
    desk.reception.stop()
    desk.consumer.timer.pass_time()
    assert message._state == "RECEIVED"
    desk.send("forwards", leaders)
    late = desk.receive(leaders, redelivered=True)
    late.channel = SimpleNamespace(closed=True)
    desk.consumer.timer.pass_time()
    assert late._state == "RECEIVED"


def test_what_forwards_is_disconnected_with_the_worker(desk: Desk) -> None:
    """A connection for each reconnect of the worker would stay otherwise."""
    desk.send("forwards")
    desk.receive()
    connection = desk.reception._forwarder._producer.connection
    assert connection.connected
    desk.reception.stop()
    assert not connection.connected


def test_what_the_pool_refuses_after_the_connection_ended_is_left_alone(desk: Desk, leaders: Queue) -> None:
    """The same: on Redis a second return would make two messages of it."""
    desk.queues.leads = True
    desk.send("forwards", leaders)
    message = desk.receive(leaders)
    message.channel = SimpleNamespace(closed=True)
    desk.queues.leads = False
    desk.pool_rejects()
    assert message._state == "RECEIVED"


@pytest.mark.parametrize(
    ("exchange", "routing_key", "came"),
    [
        ("celery-leader.default", "celery-leader.default", True),
        ("", "celery-leader.default", True),
        (None, "celery-leader.default", True),
        ("", "celery", False),
        ("celery", "celery", False),
        ("celery", "celery-leader.default", False),
        ("celery-leader.default", "celery", False),
        (None, None, False),
    ],
)
def test_the_leaders_queue_is_known_by_its_binding_and_by_its_name(
    leaders: Queue, exchange: str | None, routing_key: str | None, came: bool
) -> None:
    """The default exchange needs no binding: a queue's name is its routing key."""
    assert came_by(leaders, {"exchange": exchange, "routing_key": routing_key}) is came
    assert not came_by(leaders, None)


def test_a_consumer_without_a_reception_handles_messages_as_ever(desk: Desk) -> None:
    """One of another program, say."""
    handle = GuardedStrategy(lambda task, app, consumer: "as ever")(desk.app.tasks["forwards"], desk.app, object())
    assert handle == "as ever"


def test_a_tasks_own_strategy_is_kept(app: Celery) -> None:
    """Batching packages bring one."""

    def own(task: Any, app: Any, consumer: Any) -> str:
        return "own"

    task = app.task(name="own", shared=False, Strategy=staticmethod(own))(leader_only(run_anything))
    for _ in range(2):
        receive_guarded_tasks(app)
    assert isinstance(task.Strategy, GuardedStrategy)
    assert task.Strategy._inner is own
