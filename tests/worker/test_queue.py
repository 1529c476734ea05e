"""The leader's queue is consumed while its worker leads, and at no other time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state as worker_state
from kombu import Queue

from celery_leader.worker.queue import LeaderQueues, copied, runs_guarded_work
from tests.worker.conftest import LocalWorker

LEADERS = "celery-leader.default"


@pytest.fixture(autouse=True)
def _no_requests() -> Iterator[None]:
    yield
    worker_state.reserved_requests.clear()
    worker_state.active_requests.clear()


def test_the_leaders_queue_is_consumed_while_the_worker_leads(
    worker: LocalWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """From the takeover on, and no longer than to the loss; the log says both, once."""
    caplog.set_level("INFO", "celery_leader.worker.queue")
    worker.connect()
    assert worker.consumes("celery")
    assert not worker.consumes(LEADERS)
    worker.lead()
    assert worker.consumes(LEADERS)
    worker.leadership.campaign.wake()
    worker.consumer.leader_reception._queues.sync_soon()
    worker.turn()
    worker.resign()
    assert not worker.consumes(LEADERS)
    assert worker.consumes("celery")
    said = [record.getMessage() for record in caplog.records if record.name == "celery_leader.worker.queue"]
    assert said == [f"Consuming the leader's queue {LEADERS}", f"Consuming the leader's queue {LEADERS} no more"]


def test_a_leader_consumes_the_queue_of_each_election_that_it_leads(
    app: Celery, make_worker: Callable[..., LocalWorker]
) -> None:
    """Of one that no task names, too: tasks may be made later. And of no other."""
    app.conf.leader_elections = ["default", "unused"]
    worker = make_worker()
    worker.connect()
    assert worker.leadership.campaign.candidates["unused"].elector.try_acquire_or_renew()
    worker.turn()
    assert worker.consumes("celery-leader.unused")
    assert not worker.consumes(LEADERS)


def test_a_closing_leader_consumes_no_more(worker: LocalWorker) -> None:
    """It still has its lease, but nothing that is reserved for the leader may begin."""
    worker.connect()
    worker.lead()
    worker.leadership.campaign.close_to_new_work()
    worker.consumer.leader_reception._queues.sync_soon()
    worker.turn()
    assert worker.candidate.shared_trust.is_leader()
    assert not worker.consumes(LEADERS)


def test_the_consumer_is_touched_by_the_main_loop_only(worker: LocalWorker) -> None:
    """The elector's thread, which tells of each change, only asks for it."""
    worker.connect()
    assert worker.candidate.elector.try_acquire_or_renew()
    assert not worker.consumes(LEADERS)
    worker.turn()
    assert worker.consumes(LEADERS)


def test_a_leader_consumes_again_after_a_reconnect(worker: LocalWorker) -> None:
    """The new channel knows nothing of the old one's consumers."""
    worker.connect()
    worker.lead()
    worker.disconnect()
    worker.connect()
    assert worker.consumes(LEADERS)
    assert worker.consumes("celery")


def test_who_lost_its_lease_while_it_reconnected_consumes_no_more(worker: LocalWorker) -> None:
    """What the loss asks of the loop in between does nothing, and ends nothing: there is no channel."""
    worker.connect()
    worker.lead()
    worker.disconnect()
    worker.resign()
    worker.connect()
    assert not worker.consumes(LEADERS)


@pytest.mark.parametrize("missing", ["task_consumer", "connection"])
def test_nothing_is_followed_without_a_connection(
    worker: LocalWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    """A reconnect is under way; the log has no error."""
    worker.connect()
    monkeypatch.setattr(worker.consumer, missing, None)
    assert worker.candidate.elector.try_acquire_or_renew()
    worker.consumer.leader_reception._queues._sync()
    monkeypatch.undo()
    assert not worker.consumes(LEADERS)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_who_knows_the_leaders_queue_from_its_settings_does_not_consume_it(
    app: Celery, make_worker: Callable[..., LocalWorker]
) -> None:
    """Celery lets a worker consume every queue in ``task_queues``, unless -Q says otherwise."""
    app.conf.task_queues = [Queue("celery"), Queue(LEADERS), Queue("celery-leader.reports")]
    assert LEADERS in app.amqp.queues.consume_from
    for options in ({}, {"without_leader": True}):
        worker = make_worker(**options)
        worker.connect()
        assert worker.consumes("celery")
        assert not worker.consumes(LEADERS)
        assert not worker.consumes("celery-leader.reports")  # an election in which it takes no part


def test_work_is_accepted_in_elections_that_are_led(worker: LocalWorker) -> None:
    """Not in one that this worker has no part in."""
    queues = LeaderQueues(worker.consumer, worker.leadership.campaign)
    assert not queues.accepts_work("default")
    worker.lead()
    assert queues.accepts_work("default")
    assert queues.accepts_work("reports") is False
    assert LeaderQueues(worker.consumer, None).accepts_work("default") is False


def failing(worker: LocalWorker, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Callable[[], None]:
    """Let the broker answer with *error* when the leader's queue is consumed; return what the main loop calls."""

    def fail(queue: Any) -> None:
        raise error

    worker.connect()
    assert worker.candidate.elector.try_acquire_or_renew()
    monkeypatch.setattr(worker.consumer.task_consumer, "add_queue", fail)
    monkeypatch.setattr(worker.consumer, "connection_errors", (ConnectionError,))  # a broker in memory has none
    follow: Callable[[], None] = worker.consumer.leader_reception._queues._sync
    return follow


def test_a_lost_connection_is_celerys(worker: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets out to the loop, which reconnects. Swallowed, the worker would go on with a dead connection."""
    follow = failing(worker, monkeypatch, ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError):
        follow()


def test_no_other_error_ends_the_worker(
    worker: LocalWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker refuses one queue, say: the log tells of it, and the loop goes on."""
    failing(worker, monkeypatch, LookupError("no permission"))()
    assert "The leader's queue of 'default' could not be followed" in caplog.text
    assert "no permission" in caplog.text


def request(task: Any, *, with_pool: bool = True) -> Any:
    """Return as much of a worker's request as is looked at."""

    class Request(SimpleNamespace):
        __hash__ = object.__hash__

    return Request(task=task, _apply_result=object() if with_pool else None)


def test_guarded_work_is_that_of_one_election(app: Celery) -> None:
    """A lease waits for its own election's tasks, not for others'."""
    assert not runs_guarded_work("default")
    plain, reports, guarded = (request(app.tasks[name]) for name in ("plain", "reports", "guarded"))
    worker_state.active_requests.update([plain, reports])  # which keeps none alive
    assert not runs_guarded_work("default")
    assert runs_guarded_work("reports")
    worker_state.active_requests.add(guarded)
    assert runs_guarded_work("default")


def test_what_the_pool_has_counts_as_work(app: Celery) -> None:
    """It may begin at any moment. What the worker only holds does not: it goes back at a stop."""
    held = request(app.tasks["guarded"], with_pool=False)
    worker_state.reserved_requests.add(held)
    assert not runs_guarded_work("default")
    begins = request(app.tasks["guarded"])
    worker_state.reserved_requests.add(begins)
    assert runs_guarded_work("default")


def test_a_set_that_changes_is_read_again() -> None:
    """The main thread adds and removes requests meanwhile; one that never rests is an error, not a wrong answer."""

    class Changing:
        def __init__(self, times: int) -> None:
            self.times = times

        def __iter__(self) -> Iterator[int]:
            self.times -= 1
            if self.times >= 0:
                raise RuntimeError("Set changed size during iteration")
            return iter([1, 2])

    assert copied(Changing(5)) == (1, 2)
    with pytest.raises(RuntimeError, match="too fast"):
        copied(Changing(1000))
