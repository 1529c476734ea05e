"""Where the messages of guarded tasks go."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

import celery_leader
from celery_leader.exceptions import ConfigurationError
from celery_leader.tasks import leader_only as routing
from celery_leader.tasks.leader_only import LeaderRouter, leader_queue
from tests.tasks.deliveries import taken


@pytest.mark.parametrize("how", ["delay", "apply_async", "send_task", "signature"])
def test_every_way_to_call_leads_to_the_leaders_queue(app: Celery, how: str) -> None:
    """And no other queue gets anything."""
    task = app.tasks["forwards"]
    queue = leader_queue(app, "default")
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


def test_an_app_that_creates_no_queues_has_the_leaders_all_the_same() -> None:
    """``task_create_missing_queues = False`` keeps typing errors from making queues."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(task_create_missing_queues=False)
    assert leader_queue(app, "default").name == "celery-leader.default"


def test_the_queues_arguments_are_the_publishers() -> None:
    """RabbitMQ refuses a second declaration that differs."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", task_queue_max_priority=5)
    assert leader_queue(app, "default").queue_arguments == {"x-max-priority": 5}
    mine = Queue("celery-leader.default", Exchange("mine"), routing_key="mine")
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", task_queues=[mine])
    assert leader_queue(app, "default").exchange.name == "mine"


def test_publishers_need_no_store() -> None:
    """A web process sends guarded tasks without knowing where elections are kept."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.leader_queue_prefix = "mine."
    assert leader_queue(app, "default").name == "mine.default"


def test_an_app_can_be_pickled_for_pools_that_spawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings travel whole; the router finds the current app where it arrives."""
    app = Celery("proj", broker="memory://", include=["json"], set_as_current=False)
    app.conf.update(leader_backend="memory://", task_default_queue="mine")
    celery_leader.setup(app)
    app.finalize()
    copy = pickle.loads(pickle.dumps(app))
    assert copy.conf.include == ["json"]
    assert copy.conf.task_default_queue == "mine"
    [router] = copy.conf.task_routes
    assert type(router) is LeaderRouter
    monkeypatch.setattr(routing, "current_app", SimpleNamespace(_get_current_object=lambda: copy))
    copy.conf.leader_queue_prefix = "copy."
    assert "copy." in repr(router)


def test_the_router_says_what_it_does(app: Celery) -> None:
    """``inspect conf`` shows it among the settings."""
    assert repr(app.conf.task_routes[0]) == "<LeaderRouter: @leader_only tasks go to celery-leader.<election>>"


@pytest.mark.parametrize("how", ["map", "starmap", "chunks"])
def test_what_would_call_the_task_anywhere_is_refused_where_it_is_sent(app: Celery, how: str) -> None:
    """With the way that works; other tasks go as ever."""
    guarded, plain = app.tasks["forwards"], app.tasks["plain"]

    def send(task: Any) -> None:
        items = [(1,), (2,)]
        many = task.chunks(items, 2) if how == "chunks" else getattr(task, how)(items)
        many.apply_async()

    with pytest.raises(ConfigurationError, match=r"forwards is reserved for a leader.*group\(forwards\.s\(item\)"):
        send(guarded)
    send(plain)
    assert len(taken(app)) == 1


def test_a_map_by_name_is_refused_where_it_is_sent(app: Celery) -> None:
    """Positional arguments are not looked into: a worker refuses to run that map."""
    with pytest.raises(ConfigurationError, match="forwards is reserved for a leader"):
        app.send_task("celery.map", kwargs={"task": "forwards", "it": [1]})
    app.send_task("celery.map", ("forwards", [1]))
    assert len(taken(app)) == 1
