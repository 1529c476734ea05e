"""``@leader_only``: where its messages go, and what a worker does with one that it may not run."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from kombu import Exchange, Queue

import celery_leader
from celery_leader import leader_only
from celery_leader.exceptions import ConfigurationError
from celery_leader.tasks.leader_only import LeaderRouter, leader_queue, mark_of
from celery_leader.testing import forced_leader


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with guarded tasks, wired, on a broker in memory."""
    app = Celery("proj", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", leader_elections=["default", "reports"])
    celery_leader.setup(app)

    @app.task(name="forwards", shared=False)
    @leader_only
    def forwards(a: int, b: int = 2) -> str:
        """Add."""
        return f"{a}+{b} in {celery_leader.fencing_token()}"

    @app.task(name="bound", shared=False, bind=True)
    @leader_only(election="reports")
    def bound(self: Task, a: int) -> str:
        return f"{self.name} {a}"

    @app.task(name="skips", shared=False)
    @leader_only(on_follower="skip")
    def skips() -> None: ...

    @app.task(name="raises", shared=False)
    @leader_only(on_follower="raise")
    def raises() -> None: ...

    @app.task(name="retries", shared=False, autoretry_for=(Exception,))
    @leader_only
    def retries() -> None: ...

    @app.task(name="plain", shared=False)
    def plain() -> None: ...

    app.finalize()
    yield app
    app.close()


def run(app: Celery, name: str, *args: Any, by: str | None = None) -> Any:
    """Run task *name* as a pool child does, with a message that came by the queue *by*; return its trace's info."""
    task = app.tasks[name]
    queue = by or "celery"
    request = {
        "id": f"{name}-id", "task": name, "args": args, "kwargs": {}, "is_eager": False, "called_directly": False,
        "delivery_info": {"exchange": queue, "routing_key": queue},
    }  # fmt: skip
    tracer = build_tracer(name, task, app=app)
    return tracer(f"{name}-id", args, {}, request)


def taken(app: Celery, queue: Queue) -> list[Any]:
    """Take all messages from *queue*."""
    messages = []
    with app.connection() as connection:
        channel = connection.default_channel
        queue(channel).declare()
        while message := channel.basic_get(queue.name, no_ack=True):
            messages.append(message)
    return messages


@pytest.mark.parametrize("how", ["delay", "apply_async", "send_task", "signature"])
def test_every_way_to_call_leads_to_the_leaders_queue(app: Celery, how: str) -> None:
    """And no other queue gets anything."""
    task = app.tasks["forwards"]
    queue = leader_queue(app, "default")
    taken(app, queue)
    match how:
        case "delay":
            task.delay(1)
        case "apply_async":
            task.apply_async((1,))
        case "send_task":
            app.send_task("forwards", (1,))
        case _:
            task.s(1).apply_async()
    assert len(taken(app, queue)) == 1


def test_each_election_has_its_queue(app: Celery) -> None:
    """Named after it."""
    assert leader_queue(app, "reports").name == "celery-leader.reports"
    app.tasks["bound"].delay(1)
    assert len(taken(app, leader_queue(app, "reports"))) == 1


def test_other_tasks_go_where_they_went(app: Celery) -> None:
    """The app's own routes still count, behind ours."""
    routes = app.conf.task_routes
    assert len(routes) == 1
    assert routes[0]("plain", task=app.tasks["plain"]) is None


def test_routes_of_the_app_are_kept() -> None:
    """In each form that Celery takes."""
    for routes in ({"plain": "q"}, [{"plain": "q"}], ({"plain": "q"},), None):
        app = Celery("proj", broker="memory://", set_as_current=False)
        app.conf.update(leader_backend="memory://", task_routes=routes)
        celery_leader.setup(app)
        celery_leader.setup(app)
        assert len(app.conf.task_routes) == (2 if routes else 1)


def test_publishing_does_not_make_workers_consume_the_queue(app: Celery) -> None:
    """Looking a queue up in the app's registry would, before Celery 5.7."""
    app.tasks["forwards"].delay(1)
    assert "celery-leader.default" not in app.amqp.queues
    assert "celery-leader.default" not in app.amqp.queues.consume_from


def test_the_queues_arguments_are_the_publishers() -> None:
    """RabbitMQ refuses a second declaration that differs."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", task_queue_max_priority=5)
    assert leader_queue(app, "default").queue_arguments == {"x-max-priority": 5}
    mine = Queue("celery-leader.default", Exchange("mine"), routing_key="mine")
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", task_queues=[mine])
    assert leader_queue(app, "default").exchange.name == "mine"


def test_the_leader_runs_it(app: Celery) -> None:
    """With its arguments, and the token of its term inside."""
    with forced_leader(fencing_token=7):
        assert run(app, "forwards", 1, by="celery-leader.default").retval == "1+2 in 7"
    with forced_leader("reports"):
        assert run(app, "bound", 5, by="celery-leader.reports").retval == "bound 5"


def test_a_follower_sends_back_what_came_by_the_leaders_queue(app: Celery) -> None:
    """Trust was lost after the prefetch: the next leader runs it."""
    for name in ("forwards", "retries"):
        info = run(app, name, *([1] if name == "forwards" else []), by="celery-leader.default")
        assert info.info.state == "REJECTED"
        assert isinstance(info.info.retval, Reject)
        assert info.info.retval.requeue


def test_a_follower_forwards_what_came_by_another_queue(app: Celery) -> None:
    """Same id, same arguments, one message; its own is acknowledged."""
    queue = leader_queue(app, "default")
    taken(app, queue)
    info = run(app, "forwards", 4)
    assert isinstance(info.info.retval, Ignore)
    assert not isinstance(info.info.retval, Reject)
    (message,) = taken(app, queue)
    assert message.headers["id"] == "forwards-id"
    assert message.payload[0] == [4]


def test_a_follower_that_can_not_forward_gives_the_message_back(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost while the broker is away."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("broker is away")

    monkeypatch.setattr(type(app), "send_task", refuse)
    info = run(app, "forwards", 4)
    assert isinstance(info.info.retval, Reject)
    assert info.info.retval.requeue


def test_a_follower_skips_what_is_to_be_skipped(app: Celery) -> None:
    """State IGNORED, nothing sent."""
    run(app, "skips")
    assert app.AsyncResult("skips-id").state == "IGNORED"


def test_a_follower_raises_what_is_to_be_raised(app: Celery) -> None:
    """The task fails, and says why."""
    info = run(app, "raises")
    assert info.info.state == "FAILURE"
    assert "raises[raises-id] is reserved for the leader of 'default'" in str(info.info.retval)


def test_a_closing_leader_starts_nothing(app: Celery) -> None:
    """It still has the lease, for what runs already."""
    with forced_leader():
        from celery_leader.leadership import state

        cell = state._cell("default")
        assert cell
        cell.close_to_new_work()
        assert run(app, "forwards", 1, by="celery-leader.default").info.state == "REJECTED"


def test_direct_calls_and_eager_ones_just_run(app: Celery) -> None:
    """Tests and shells need no election."""
    assert app.tasks["forwards"](1) == "1+2 in None"
    assert app.tasks["forwards"].apply((1,)).get() == "1+2 in None"
    app.conf.task_always_eager = True
    assert app.tasks["forwards"].delay(1).get() == "1+2 in None"


def test_a_guarded_function_called_by_another_task_just_runs(app: Celery) -> None:
    """It is that task's business then."""

    @app.task(name="outer", shared=False)
    def outer() -> str:
        return str(app.tasks["forwards"](3))

    assert run(app, "outer").retval == "3+2 in None"


def test_guarded_tasks_are_acknowledged_late(app: Celery) -> None:
    """A message that was acknowledged could not go back. Other tasks are left alone."""
    assert app.tasks["forwards"].acks_late
    assert not app.tasks["plain"].acks_late


def test_calls_are_checked_against_the_functions_signature(app: Celery) -> None:
    """A wrong call fails where it is made."""
    task = app.tasks["forwards"]
    assert list(inspect.signature(task.run).parameters) == ["a", "b"]
    assert task.__doc__ == "Add."
    with pytest.raises(TypeError):
        task.delay(1, 2, 3)


def test_the_decorator_stands_below_app_task(app: Celery) -> None:
    """Above it there is no function to guard."""
    with pytest.raises(ConfigurationError, match="below"):
        leader_only(app.tasks["plain"])


def test_an_unknown_policy_is_refused() -> None:
    """With the value, and the known ones."""
    with pytest.raises(ConfigurationError, match="forward, skip, raise.*'queue'"):
        leader_only(on_follower="queue")


def test_marks_are_found_on_tasks_only() -> None:
    """Anything may be asked."""
    assert mark_of(None) is None
    assert mark_of("text") is None


def test_publishers_need_no_store() -> None:
    """A web process sends guarded tasks without knowing where elections are kept."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.leader_queue_prefix = "mine."
    assert leader_queue(app, "default").name == "mine.default"


def test_an_app_can_be_pickled_for_pools_that_spawn() -> None:
    """Its settings travel whole; the router finds its app where it arrives."""
    app = Celery("proj", broker="memory://", include=["json"], set_as_current=False)
    app.conf.update(leader_backend="memory://", task_default_queue="mine")
    celery_leader.setup(app)
    app.finalize()
    copy = pickle.loads(pickle.dumps(app))
    assert copy.conf.include == ["json"]
    assert copy.conf.task_default_queue == "mine"
    assert [type(route) for route in copy.conf.task_routes] == [LeaderRouter]
