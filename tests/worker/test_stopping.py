"""What a worker that stops does with the messages it has; real ones are stopped in ``tests/chaos/test_stopping.py``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state as worker_state

from celery_leader import leader_only
from celery_leader.worker import stopping
from celery_leader.worker.stopping import let_go_of_messages


@leader_only
def guarded() -> None:
    """Stand for a task that runs on the leader."""


class Message:
    """Notes what becomes of it."""

    state = ""
    acknowledged = False

    def __init__(self) -> None:
        self.on_reject: Callable[[Message], Any] = lambda message: None

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        self.on_reject(self)
        self.state = "requeued" if requeue else "rejected"


class Request:
    """As much of a worker's request as is looked at."""

    acknowledged = False

    def __init__(self, run: Any = guarded) -> None:
        self.task = SimpleNamespace(run=run)
        self.message = Message()


class TaskConsumer:
    """Has another channel than Redis', or none that works."""

    def __init__(self, error: Exception | None = None) -> None:
        self.cancelled = False
        self.channel = SimpleNamespace()
        self._error = error

    def cancel(self) -> None:
        self.cancelled = True
        if self._error:
            raise self._error


def worker(pool: Any = None, error: Exception | None = None) -> Any:
    consumer = SimpleNamespace(connection=object(), connection_errors=(OSError,), task_consumer=TaskConsumer(error))
    return SimpleNamespace(consumer=consumer, pool=SimpleNamespace(_pool=pool))


@pytest.fixture(autouse=True)
def _no_requests() -> Iterator[None]:
    yield
    worker_state.reserved_requests.clear()
    worker_state.active_requests.clear()


def test_guarded_tasks_that_have_not_begun_go_back() -> None:
    """Those that have begun, that went back before, and other tasks do not."""
    waiting, begun, gone, plain = Request(), Request(), Request(), Request(run=print)
    gone.acknowledged = True
    worker_state.reserved_requests.update([waiting, begun, gone, plain])
    worker_state.active_requests.add(begun)
    stopped = worker()
    let_go_of_messages(stopped)
    assert stopped.consumer.task_consumer.cancelled
    assert [each.message.state for each in (waiting, begun, gone, plain)] == ["requeued", "", "", ""]
    assert waiting.acknowledged
    assert waiting not in worker_state.reserved_requests


def test_a_thread_that_gets_to_a_task_meanwhile_gives_it_back_alone() -> None:
    """What is given back twice is an error, which would cost finished tasks their acknowledgement."""
    first, second = Request(), Request()

    def begin_the_other(requeued: Message) -> None:
        other = second if requeued is first.message else first
        other.acknowledged = True  # by its thread

    for request in (first, second):
        request.message.on_reject = begin_the_other
    worker_state.reserved_requests.update([first, second])
    let_go_of_messages(worker())
    assert sorted(each.message.state for each in (first, second)) == ["", "requeued"]


def test_no_thread_gives_back_what_goes_back() -> None:
    """A request that is acknowledged is left alone by its thread."""
    waiting, seen = Request(), []
    waiting.message.on_reject = lambda message: seen.append(waiting.acknowledged)
    worker_state.reserved_requests.add(waiting)
    let_go_of_messages(worker())
    assert seen == [True]


def test_a_task_with_a_countdown_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next leader waits for its time. (Celery before 5.7 keeps no list of those.)"""
    waiting = Request()
    monkeypatch.setattr(worker_state, "scheduled_requests", [waiting], raising=False)
    let_go_of_messages(worker())
    assert waiting.message.state == "requeued"


def test_a_thread_that_hears_the_children_gets_its_time() -> None:
    """Where the broker's transport has no event loop: what it has not noted may have begun."""
    begun = Request()
    worker_state.reserved_requests.add(begun)
    timer = threading.Timer(0.1, worker_state.active_requests.add, [begun])
    timer.start()
    let_go_of_messages(worker(pool=SimpleNamespace(_result_handler=object())))
    timer.join()
    assert begun.message.state == ""


def test_a_thread_that_hears_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no child has taken by then goes back."""
    monkeypatch.setattr(stopping, "PATIENCE", 0.05)
    waiting = Request()
    worker_state.reserved_requests.add(waiting)
    let_go_of_messages(worker(pool=SimpleNamespace(_result_handler=object())))
    assert waiting.message.state == "requeued"


class Threads:
    """A worker with a pool of threads, none of which is free, on a broker without an event loop."""

    def __init__(self, *running: Request) -> None:
        self.worker = worker()
        self.worker.pool.executor = ThreadPoolExecutor(1)
        self.worker.hub, self.worker.consumer.perform_pending_operations = None, self.turn
        self.ended: list[Request] = []
        worker_state.active_requests.update(running)

    def turn(self) -> None:
        """Acknowledge what had ended the turn before."""
        for request in self.ended:
            request.message.acknowledged = True
        self.ended = list(worker_state.active_requests)
        worker_state.active_requests.clear()


def test_what_threads_run_is_acknowledged_when_it_has_ended() -> None:
    """Not when the last of the worker's tasks has: that may be killed first. Nothing new begins meanwhile."""
    running = Request()
    threads = Threads(running)
    let_go_of_messages(threads.worker)
    assert running.message.acknowledged
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.worker.pool.executor.submit(print)


def test_what_can_not_be_acknowledged_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is gone, say."""
    monkeypatch.setattr(stopping, "PATIENCE", 0.05)
    running = Request()
    threads = Threads(running)
    threads.worker.consumer.perform_pending_operations = worker_state.active_requests.clear
    let_go_of_messages(threads.worker)
    assert not running.message.acknowledged


def test_a_cold_shutdown_ends_the_wait_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal may ask for it."""
    running = Request()
    threads = Threads(running)
    monkeypatch.setattr(worker_state, "should_terminate", None)
    threads.worker.consumer.perform_pending_operations = lambda: setattr(worker_state, "should_terminate", 1)
    let_go_of_messages(threads.worker)
    assert running in worker_state.active_requests


def test_a_cold_shutdown_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its children are cut off, and the broker has all back at once."""
    monkeypatch.setattr(worker_state, "should_terminate", 1)
    waiting = Request()
    worker_state.reserved_requests.add(waiting)
    let_go_of_messages(worker())
    assert waiting.message.state == ""


@pytest.mark.parametrize(("error", "level"), [(OSError("cut"), "INFO"), (AttributeError("_cache"), "ERROR")])
def test_no_error_keeps_a_worker_from_stopping(error: Exception, level: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a lost connection nor a Celery that has changed inside."""
    caplog.set_level(logging.INFO, "celery_leader")
    let_go_of_messages(worker(error=error))
    assert [record.levelname for record in caplog.records] == [level]
