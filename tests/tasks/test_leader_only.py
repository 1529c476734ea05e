"""``@leader_only``: which messages it lets run, and what becomes of others."""

from __future__ import annotations

import inspect
import logging
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, TimeLimitExceeded

import celery_leader
from celery_leader import leader_only
from celery_leader.exceptions import ConfigurationError
from celery_leader.leadership import state
from celery_leader.settings import apps_set_up
from celery_leader.tasks.leader_only import TO_FOLLOWER_HEADER, leader_queue, mark_of
from celery_leader.testing import forced_leader
from celery_leader.worker.leadership import receive_guarded_tasks
from tests.tasks.deliveries import deliver, taken

#: What a worker's main process says of a message that came by another queue than the leader's.
TO_FOLLOWER = {TO_FOLLOWER_HEADER: True}


def run(app: Celery, name: str, *args: Any, **options: Any) -> Any:
    """Run task *name* as a pool child does; return its trace's info."""
    return deliver(app.tasks[name], *args, id=f"{name}-id", **options)


def test_the_leader_runs_it(app: Celery) -> None:
    """With its arguments, and the token of its term inside."""
    with forced_leader(fencing_token=7):
        assert run(app, "forwards", 1).retval == "1+2 in 7"
    with forced_leader("reports"):
        assert run(app, "bound", 5).retval == "bound 5"


def test_a_follower_sends_back_what_it_received_as_a_leader(app: Celery) -> None:
    """Its trust was lost since: the next leader runs it, whatever followers do with other messages."""
    for name, *args in (("forwards", 1), ("skips",), ("raises",), ("retries",)):
        info = run(app, name, *args)
        assert info.info.state == "REJECTED"
        assert isinstance(info.info.retval, Reject)
        assert info.info.retval.requeue


def test_a_follower_skips_what_is_to_be_skipped(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """State IGNORED, and a line in the log."""
    with caplog.at_level(logging.INFO, "celery_leader.tasks"):
        info = run(app, "skips", headers=TO_FOLLOWER)
    assert "skips[skips-id] skipped: this worker does not lead 'default'" in caplog.text
    assert isinstance(info.info.retval, Ignore)
    assert not isinstance(info.info.retval, Reject)
    assert app.AsyncResult("skips-id").state == "IGNORED"


def test_a_follower_raises_what_is_to_be_raised(app: Celery) -> None:
    """The task fails, and says why."""
    info = run(app, "raises", headers=TO_FOLLOWER)
    assert info.info.state == "FAILURE"
    assert "raises[raises-id] is reserved for the leader of 'default'" in str(info.info.retval)


def test_a_worker_that_is_not_set_up_says_so(app: Celery) -> None:
    """Its message could not go back: nobody let it be acknowledged late, and nobody would hold it for a while."""
    apps_set_up.discard(app)
    info = run(app, "forwards", 1)
    assert info.info.state == "FAILURE"
    assert "call celery_leader.setup(app)" in str(info.info.retval)


def test_a_spawned_child_does_what_its_worker_says(app: Celery) -> None:
    """It has a copy of the app, which nobody set up. Its worker's main process has received the message."""
    apps_set_up.discard(app)
    with forced_leader("reports"):  # as it has its worker's trusts
        assert run(app, "forwards", 1).info.state == "REJECTED"
    assert run(app, "skips", headers=TO_FOLLOWER).info.state == "IGNORED"
    assert "this worker does not lead" in str(run(app, "raises", headers=TO_FOLLOWER).info.retval)


def test_a_worker_of_other_elections_is_a_follower(app: Celery) -> None:
    """It leads another one."""
    with forced_leader("reports"):
        assert run(app, "forwards", 1).info.state == "REJECTED"


@pytest.mark.parametrize(
    "lie",
    [
        {"is_eager": True},
        {"is_eager": True, "properties": None},
        {"called_directly": True},
        {"delivery_info": {"is_eager": True, "exchange": "celery-leader.default"}},
        {"__leader_only__": True},
        {"leader_to_follower": True},
        {"retries": 1, "id": "another"},
    ],
    ids=str,
)
def test_no_message_makes_a_follower_run_it(app: Celery, lie: dict[str, Any]) -> None:
    """Whatever the third part of its body says, or its headers, of the request."""
    assert run(app, "forwards", 1, embed=lie).info.state == "REJECTED" or "leader_to_follower" in lie
    assert run(app, "forwards", 1, headers=lie).info.state == "REJECTED" or "leader_to_follower" in lie


@pytest.mark.parametrize("by", ["celery.map", "celery.starmap"])
def test_no_message_makes_a_follower_call_it(app: Celery, by: str) -> None:
    """Celery's own tasks that call others are refused by leaders, too: nothing would tell that guarded work runs."""
    signature = app.tasks["forwards"].s()
    for leads in (False, True):
        with forced_leader() if leads else nullcontext():
            info = run(app, by, dict(signature), [[1]])
            assert info.info.state == "FAILURE"
            assert "Send a group" in str(info.info.retval)


def test_no_map_in_between_makes_a_follower_call_it(app: Celery) -> None:
    """One map may call the other, and an error callback may be one; what a task's code applies just runs."""
    ran = []

    @app.task(name="guarded", shared=False)
    @leader_only
    def guarded(number: int) -> None:
        ran.append(number)

    @app.task(name="applies", shared=False)
    def applies() -> None:
        app.tasks["guarded"].map([1]).apply()

    signature = dict(app.tasks["guarded"].s())
    info = run(app, "celery.starmap", dict(app.tasks["celery.map"].s()), [[signature, [1]]])
    assert "Send a group" in str(info.info.retval)
    errback = {"task": "celery.starmap", "args": [signature, [[1]]], "kwargs": {}, "options": {}, "immutable": True}
    with suppress(RuntimeWarning):  # Celery before 5.7 does not expect that an error callback fails
        run(app, "plain", 1, embed={"errbacks": [errback]})
    assert ran == []
    run(app, "applies")
    assert ran == [1]


def test_no_message_makes_a_follower_call_a_class(app: Celery) -> None:
    """Not even one whose ``__call__`` does its work alone, which runs before Celery knows of the call."""
    ran = []

    @leader_only
    class Alone(Task):
        name = "alone"

        def __call__(self, number: int) -> None:
            ran.append(number)

        def run(self) -> None: ...

    task = app.register_task(Alone())
    assert run(app, "celery.map", dict(task.s()), [[1]]).info.state == "FAILURE"
    assert ran == []
    task(1)
    assert ran == [1]


def test_no_failure_makes_a_follower_call_it(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Celery calls error callbacks of several arguments where the task failed."""
    ran = []

    @app.task(name="on_error", shared=False)
    @leader_only
    def on_error(request: Any, error: Any, traceback: Any) -> None:
        ran.append(request)

    @app.task(name="fails", shared=False)
    def fails() -> None:
        raise ValueError("no")

    errbacks = [dict(app.tasks["on_error"].s())]
    assert run(app, "fails", embed={"errbacks": errbacks}).info.state == "FAILURE"
    assert "on_error did not run for the failure of fails[fails-id]" in caplog.text
    fail_in_main_process(app, errbacks)
    assert ran == []
    app.tasks["on_error"](None, None, None)
    assert ran == [None]


def fail_in_main_process(app: Celery, errbacks: list[Any]) -> None:
    """Let a task fail as one whose time is over: its worker's main process notes that, in which no task runs."""
    failed = Context({"id": "failed", "task": "fails", "errbacks": errbacks, "properties": {}, "delivery_info": {}})
    app.backend.mark_as_failure("failed", TimeLimitExceeded(1), request=failed, store_result=False)


def test_an_error_callback_that_has_its_arguments_is_sent_to_the_leader(app: Celery) -> None:
    """Celery calls that like a function, too, when it has several."""
    ran = []

    @app.task(name="on_error", shared=False)
    @leader_only
    def on_error(a: int, b: int) -> None:
        ran.append((a, b))

    @app.task(name="fails", shared=False)
    def fails() -> None:
        raise ValueError("no")

    errbacks = [dict(app.tasks["on_error"].si(1, 2))]
    run(app, "fails", embed={"errbacks": errbacks})
    fail_in_main_process(app, errbacks)
    assert ran == []
    messages = taken(app, leader_queue(app, "default"))
    assert [message.payload[0] for message in messages] == [[1, 2], [1, 2]]
    app.tasks["fails"].apply(link_error=app.tasks["on_error"].si(3, 4))  # eagerly, as its caller's code asks
    assert ran == [(3, 4)]


def test_the_code_of_an_error_callback_may_call_it(app: Celery) -> None:
    """Like the code of any task."""
    ran = []

    @app.task(name="called", shared=False)
    @leader_only
    def called() -> None:
        ran.append("called")

    @app.task(name="on_error", shared=False)
    def on_error(request: Any, error: Any, traceback: Any) -> None:
        app.tasks["called"]()

    @app.task(name="fails", shared=False)
    def fails() -> None:
        raise ValueError("no")

    run(app, "fails", embed={"errbacks": [dict(app.tasks["on_error"].s())]})
    assert ran == ["called"]


def test_no_message_makes_a_follower_apply_it(app: Celery) -> None:
    """Celery applies error callbacks, retries and replacements of a task whose message says that it runs eagerly."""
    ran = []

    @app.task(name="guarded", shared=False)
    @leader_only
    def guarded(task_id: str = "") -> None:
        ran.append(task_id)

    @app.task(name="fails", shared=False)
    def fails() -> None:
        raise ValueError("no")

    @app.task(name="replaces", shared=False, bind=True)
    def replaces(self: Task) -> None:
        self.replace(app.tasks["guarded"].s())

    @app.task(name="retries_first", shared=False, bind=True)
    def retries_first(self: Task) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)
        self.replace(app.tasks["guarded"].s())

    errbacks = [dict(app.tasks["guarded"].s())]
    run(app, "fails", embed={"errbacks": errbacks, "delivery_info": {"is_eager": True}})
    run(app, "replaces", embed={"is_eager": True})
    run(app, "retries_first", embed={"is_eager": True})
    failed = {"id": "failed", "errbacks": errbacks, "properties": {}, "delivery_info": {"is_eager": True}}
    app.backend.mark_as_failure("failed", TimeLimitExceeded(1), request=Context(failed), store_result=False)
    assert ran == []
    for name in ("replaces", "retries_first"):
        app.tasks[name].apply()
    app.tasks["fails"].apply(link_error=app.tasks["guarded"].s())
    assert len(ran) == 3


def test_a_task_keeps_the_term_in_which_it_began(app: Celery) -> None:
    """It may lose its lease, and lead again by the next token, while the task runs: what it hands to others is old."""
    seen: list[Any] = []

    @app.task(name="outlives", shared=False)
    @leader_only
    def outlives() -> None:
        with forced_leader(fencing_token=8):
            seen.append((celery_leader.is_leader(), celery_leader.fencing_token(), celery_leader.current_term()))
        with state.registered({}):
            seen.append((celery_leader.is_leader(), celery_leader.fencing_token(), celery_leader.current_term()))

    with forced_leader(fencing_token=7) as term:
        run(app, "outlives")
        assert seen == [(True, 7, term), (False, 7, term)]
    assert celery_leader.fencing_token() is None


def test_a_term_is_that_of_one_election(app: Celery) -> None:
    """A guarded task may ask of other elections: that is another token."""
    seen: list[Any] = []

    @app.task(name="asks", shared=False)
    @leader_only
    def asks() -> None:
        with forced_leader("reports", fencing_token=8):
            seen.append((celery_leader.fencing_token(), celery_leader.fencing_token("reports")))

    with forced_leader(fencing_token=7):
        run(app, "asks")
    assert seen == [(7, 8)]


def test_a_closing_leader_starts_nothing(app: Celery) -> None:
    """It still has the lease, for what runs already."""
    with forced_leader():
        shared_trust = state._shared_trust("default")
        assert shared_trust
        shared_trust.close_to_new_work()
        assert run(app, "forwards", 1).info.state == "REJECTED"


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
    """By workers: a message that was acknowledged could not go back. Other tasks are left alone."""
    receive_guarded_tasks(app)
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
