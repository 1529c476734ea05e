"""``@once_per_tick``: which messages it guards, and what becomes of one that is delivered again."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.task import Context
from celery.exceptions import Ignore, Reject

import celery_leader
from celery_leader import leader_only, once_per_tick
from celery_leader.backends.memory import MemoryOnceStore
from celery_leader.beat.due_times import task_id
from celery_leader.exceptions import ConfigurationError, RecordConflict
from celery_leader.ledger import DUE_HEADER, Tick
from celery_leader.tasks.leader_only import leader_queue
from celery_leader.tasks.once_per_tick import _due_of
from celery_leader.tasks.patient_store import once_store_of
from celery_leader.testing import forced_leader
from celery_leader.testing.contests import race
from tests.once.conftest import DUE, NAME, TICK, Runs, deliver, is_dropped
from tests.tasks.deliveries import taken


def test_a_tick_that_is_delivered_again_runs_once(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """The second message is dropped, and the state of the task stays what the first left."""
    runs = Runs(app)
    assert deliver(runs.task) is None
    with caplog.at_level(logging.INFO, "celery_leader.tasks.once_per_tick"):
        assert is_dropped(deliver(runs.task))
    assert runs.count == 1
    assert f"invoices[{TICK}] dropped: this tick is done" in caplog.text
    assert (app.AsyncResult(TICK).state, app.AsyncResult(TICK).result) == ("SUCCESS", "ran")
    assert taken(app) == []


def test_each_process_asks_the_store_by_itself(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that shared its parent's connection would read its parent's answers."""
    parents = once_store_of(app)
    assert once_store_of(app) is parents
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert once_store_of(app) is not parents


def test_a_message_of_protocol_1_is_guarded(app: Celery) -> None:
    """Celery keeps its headers apart from the rest of the request."""
    runs = Runs(app)
    for _ in range(2):
        deliver(runs.task, headers={}, embed={"headers": {DUE_HEADER: DUE.isoformat()}})
    assert runs.count == 1


def test_another_tick_runs(app: Celery) -> None:
    """Its id is another."""
    runs = Runs(app)
    deliver(runs.task)
    deliver(runs.task, id=task_id("proj", Tick("default", "invoices", DUE.replace(hour=10))))
    assert runs.count == 2


@pytest.mark.parametrize(
    "request_",
    [
        {"headers": {}},
        {"headers": {}, "embed": {"headers": {"another": 1}}},
        {"headers": {DUE_HEADER: "soon"}},
        {"headers": {DUE_HEADER: "2020-11-23T09:00:00"}},
        {"headers": {DUE_HEADER: ["2020-11-23T09:00:00+00:00"]}},
        {"headers": {DUE_HEADER: "0001-01-01T00:00:00+14:00"}},
        {"id": "b9f7b1f0-52d5-4bb7-9d0a-2b1f3c1d7e55"},
        {"id": "mine"},
    ],
    ids=str,
)
def test_messages_that_are_no_ticks_just_run(app: Celery, request_: dict[str, Any]) -> None:
    """Without a due time, or with an id that nobody computed: a task that hands headers on makes no ticks."""
    runs = Runs(app)
    for _ in range(2):
        assert deliver(runs.task, **request_) is None
    assert runs.count == 2


def test_an_id_that_is_no_text_names_no_tick() -> None:
    """Anybody may send a message."""
    assert _due_of(Context({"id": 5, DUE_HEADER: DUE.isoformat()})) is None


def test_direct_calls_and_eager_ones_just_run(app: Celery) -> None:
    """With the very id and header of a tick, too."""
    runs = Runs(app)
    deliver(runs.task)
    assert runs.task() == "ran"
    assert runs.task.apply(task_id=TICK, headers={DUE_HEADER: DUE.isoformat()}).get() == "ran"
    assert runs.count == 3


def test_a_guarded_function_called_by_another_tick_just_runs(app: Celery) -> None:
    """It is that task's business then."""
    runs = Runs(app)

    @app.task(name="outer", shared=False)
    @once_per_tick
    def outer() -> str:
        return str(runs.task.run())

    deliver(app.tasks["outer"])
    assert app.AsyncResult(TICK).result == "ran"
    assert deliver(runs.task, id=TICK.replace(TICK[0], "0", 1)) is None


def test_a_tick_that_failed_runs_again(app: Celery) -> None:
    """It gave its claim back; when it succeeds, that is that."""
    outcomes: list[Any] = [ValueError("no"), SystemExit(), "ran", "twice"]

    def act() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    runs = Runs(app, act)
    assert deliver(runs.task).state == "FAILURE"
    with pytest.raises(SystemExit):
        deliver(runs.task)
    assert deliver(runs.task) is None
    assert is_dropped(deliver(runs.task))
    assert outcomes == ["twice"]


def test_a_retry_runs(app: Celery) -> None:
    """Its message is a tick's, with the same id."""
    failing = [True]

    def act() -> None:
        if failing[0]:
            raise OSError("away")

    runs = Runs(app, act, autoretry_for=(OSError,), default_retry_delay=0)
    assert deliver(runs.task).state == "RETRY"
    (message,) = taken(app)
    assert (message.headers["id"], message.headers["retries"]) == (TICK, 1)
    assert message.headers[DUE_HEADER] == DUE.isoformat()
    failing[0] = False
    assert deliver(runs.task, retries=1) is None
    assert is_dropped(deliver(runs.task))
    assert runs.count == 2


def test_a_task_that_ignores_itself_is_done(app: Celery) -> None:
    """One that put another in its place, say."""

    def act() -> None:
        raise Ignore

    runs = Runs(app, act)
    for _ in range(2):
        assert is_dropped(deliver(runs.task))
    assert runs.count == 1


def test_a_task_that_gives_its_message_back_is_not_done(app: Celery) -> None:
    """The broker delivers it again, and it runs."""

    def act() -> None:
        raise Reject("later", requeue=True)

    runs = Runs(app, act, acks_late=True)
    for _ in range(2):
        assert deliver(runs.task).state == "REJECTED"
    assert runs.count == 2


@pytest.mark.parametrize("acks_late", [False, True])
def test_a_delivery_beside_another_is_put_off(app: Celery, once_store: MemoryOnceStore, acks_late: bool) -> None:
    """By the same message, to the same queue, with a countdown; it counts as no retry."""
    runs = Runs(app, acks_late=acks_late)
    once_store.begin(NAME, "other", 5)
    before = datetime.now(timezone.utc)
    assert is_dropped(deliver(runs.task, queue="mine", retries=1))
    (message,) = taken(app, "mine")
    assert (message.headers["id"], message.headers["retries"]) == (TICK, 1)
    assert message.headers[DUE_HEADER] == DUE.isoformat()
    pause = (datetime.fromisoformat(message.headers["eta"]) - before).total_seconds()
    assert 3 < pause < 8
    assert runs.count == 0
    once_store.release(NAME, "other")
    assert deliver(runs.task, retries=1) is None
    assert runs.count == 1


def test_a_pause_is_shorter_than_the_brokers_patience(app: Celery, once_store: MemoryOnceStore) -> None:
    """Redis delivers again what was held longer than its visibility timeout, and each would be put off again."""
    app.conf.broker_transport_options = {"visibility_timeout": 8}
    once_store.begin(NAME, "other", 600)
    before = datetime.now(timezone.utc)
    deliver(Runs(app).task)
    (message,) = taken(app)
    assert 1.99 < (datetime.fromisoformat(message.headers["eta"]) - before).total_seconds() < 5


def test_of_many_deliveries_at_once_one_runs(app: Celery) -> None:
    """Eight threads of a pool have the same tick; the others are put off, none is lost."""
    runs = Runs(app)
    results = race(8, lambda index: deliver(runs.task))
    assert runs.count == 1
    assert results.count(None) == 1
    assert all(is_dropped(info) for info in results if info is not None)


def test_a_run_longer_than_its_claim_is_told_of(
    app: Celery, once_store: MemoryOnceStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Another delivery may have run beside it: the claim was too short."""

    def act() -> None:
        once_store._known[NAME] = ("other", once_store._known[NAME][1])  # as if it had ended, and another had begun

    deliver(Runs(app, act).task)
    assert "may have run twice" in caplog.text
    assert once_store.begin(NAME, "third", 1).is_done


@pytest.mark.parametrize(
    ("options", "timeout", "conf", "request_", "seconds"),
    [
        ({}, None, None, {}, 3600),
        ({}, None, 50, {}, 60),
        ({"time_limit": 30}, None, 50, {}, 40),
        ({"time_limit": 30}, None, None, {"timelimit": [20, None]}, 30),
        ({"time_limit": 30}, 7, 50, {"timelimit": [20, None]}, 7),
    ],
)
def test_a_claim_outlasts_the_task(
    app: Celery,
    once_store: MemoryOnceStore,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    timeout: float | None,
    conf: float | None,
    request_: dict[str, Any],
    seconds: float,
) -> None:
    """By 10 s, when it has a hard time limit: the message's own, the task's, or the app's. Else an hour, or as told."""
    app.conf.task_time_limit = conf
    claimed: list[float] = []
    begin = once_store.begin
    monkeypatch.setattr(once_store, "begin", lambda *call: claimed.append(call[2]) or begin(*call), raising=False)
    deliver(Runs(app, guard=once_per_tick(timeout=timeout), **options).task, **request_)
    assert claimed == [seconds]


@pytest.mark.parametrize("leader_first", [True, False])
def test_it_stands_above_or_below_leader_only(app: Celery, once_store: MemoryOnceStore, leader_first: bool) -> None:
    """A follower gives the tick back, which leaves it undone; the leader runs it, once."""

    def guard(function: Callable[[], Any]) -> Callable[[], Any]:
        return leader_only(once_per_tick(function)) if leader_first else once_per_tick(leader_only(function))

    runs = Runs(app, celery_leader.fencing_token, guard=guard)
    queue = leader_queue(app, "default").name
    taken(app, queue)
    assert deliver(runs.task, queue=queue).state == "REJECTED"
    assert taken(app, queue) == []
    assert runs.count == 0
    with forced_leader(fencing_token=7):
        once_store.begin(NAME, "other", 600)
        assert is_dropped(deliver(runs.task, queue=queue))
        assert len(taken(app, queue)) == 1
        once_store.release(NAME, "other")
        assert deliver(runs.task, queue=queue) is None
        assert is_dropped(deliver(runs.task, queue=queue))
    assert runs.count == 1
    assert app.AsyncResult(TICK).result == 7


def test_atomic_needs_a_database(app: Celery, once_store: MemoryOnceStore) -> None:
    """The task fails without running, says what to set, and keeps no claim."""
    runs = Runs(app, guard=once_per_tick(atomic=True))
    info = deliver(runs.task)
    assert info.state == "FAILURE"
    assert isinstance(info.retval, ConfigurationError)
    assert "django-db://<alias>" in str(info.retval)
    assert runs.count == 0
    assert once_store.begin(NAME, "other", 1).may_run


def test_a_conflict_of_the_tasks_own_is_its_failure(app: Celery) -> None:
    """Not ours: it is not put off."""

    def act() -> None:
        raise RecordConflict("mine")

    assert deliver(Runs(app, act).task).state == "FAILURE"
    assert taken(app) == []


def test_the_signature_and_the_text_are_the_functions(app: Celery) -> None:
    """Celery checks calls, and people read."""

    @app.task(name="bound", shared=False, bind=True)
    @once_per_tick(timeout=60)
    def bound(self: Task, a: int, b: int = 2) -> str:
        """Add."""
        return f"{self.name} {a}+{b}"

    app.finalize()
    task = app.tasks["bound"]
    assert list(inspect.signature(task.run).parameters) == ["a", "b"]
    assert task.__doc__ == "Add."
    assert task(1) == "bound 1+2"
    with pytest.raises(TypeError):
        task.delay(1, 2, 3)


def test_the_decorator_stands_below_app_task(app: Celery) -> None:
    """Above it there is no function to guard."""
    with pytest.raises(ConfigurationError, match="below"):
        once_per_tick(Runs(app).task)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), "60", True])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    """With the value."""
    with pytest.raises(ConfigurationError, match="timeout must be a positive"):
        once_per_tick(timeout=timeout)
