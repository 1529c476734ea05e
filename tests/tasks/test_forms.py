"""However a task is declared, its guard holds; what can't be guarded is refused with a sentence."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task, _state

import celery_leader
from celery_leader import leader_only, once_per_tick
from celery_leader.exceptions import ConfigurationError
from celery_leader.leadership import state
from celery_leader.ledger import DUE_HEADER
from celery_leader.tasks.leader_only import leader_queue
from celery_leader.testing import forced_leader
from celery_leader.worker.leadership import receive_guarded_tasks
from tests.tasks.deliveries import deliver, taken
from tests.tasks.project.forms import FORMS, declare

TICK = {"id": "4b18f677-6cb3-5262-b7fc-ac5083634298", "headers": {DUE_HEADER: "2020-11-23T09:00:00+00:00"}}


class Declared:
    """An app with all forms."""

    def __init__(self) -> None:
        """Declare them."""
        self.ran: list[str] = []
        self.app = Celery("forms", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.app.conf.leader_backend = "memory://"
        celery_leader.setup(self.app)
        declare(self.app, self.ran.append)
        self.app.finalize()
        receive_guarded_tasks(self.app)  # as a worker does


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Declared]:
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))  # where shared tasks stay
    declared = Declared()
    taken(declared.app, leader_queue(declared.app, "default"))
    yield declared
    declared.app.close()


def test_the_table_names_every_form(declared: Declared) -> None:
    """So that none is forgotten below."""
    own = {name for name in declared.app.tasks if not name.startswith(("celery.", "chaos_", "forms_found"))}
    assert own >= set(FORMS)
    assert len(FORMS) == len(set(FORMS))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_guarded(declared: Declared, form: str) -> None:
    """Routed, acknowledged late, refused by a follower, run by the leader, and free to be called directly."""
    task = declared.app.tasks[form]
    task.apply_async()
    assert len(taken(declared.app, leader_queue(declared.app, "default"))) == 1
    assert task.acks_late
    assert deliver(task).info.state == "REJECTED"
    assert declared.ran == []
    with forced_leader():
        assert deliver(task).info is None
    assert declared.ran == [form]
    task.apply(throw=True)
    task()
    assert declared.ran == [form] * 3


@pytest.mark.parametrize("form", [form for form in FORMS if "once_" in form])
def test_both_guards_hold(declared: Declared, form: str) -> None:
    """In either order, on functions and on classes: a tick runs on the leader, once."""
    task = declared.app.tasks[form]
    assert deliver(task, **TICK).info.state == "REJECTED"
    with forced_leader():
        assert deliver(task, **TICK).info is None
        assert deliver(task, **TICK).info.state == "IGNORED"
    assert declared.ran == [form]
    declared.app.AsyncResult(TICK["id"]).forget()


def test_a_guarded_task_may_call_itself(declared: Declared) -> None:
    """It is one run, in the term that it began in, and goes on when its worker begins nothing more."""
    calls: list[Any] = []

    @declared.app.task(name="recursive", shared=False)
    @leader_only
    def recursive(depth: int) -> None:
        calls.append((depth, celery_leader.fencing_token()))
        state._known_trusts()["default"].close_to_new_work()
        if depth:
            declared.app.tasks["recursive"](depth - 1)

    with forced_leader(fencing_token=7):
        assert deliver(declared.app.tasks["recursive"], 2).info is None
    assert calls == [(2, 7), (1, 7), (0, 7)]


def test_a_tick_of_a_class_that_calls_its_base_is_one_run(declared: Declared) -> None:
    """Both have the guard; it asks once."""

    @once_per_tick
    class Base(Task):
        name = "base"

        def run(self) -> None:
            declared.ran.append("base")

    class Sub(Base):
        name = "sub"

        def run(self) -> None:
            super().run()

    task = declared.app.register_task(Sub())
    assert deliver(task, **TICK).info is None
    assert deliver(task, **TICK).info.state == "IGNORED"
    assert declared.ran == ["base"]
    declared.app.AsyncResult(TICK["id"]).forget()


@pytest.mark.parametrize("own", [True, False], ids=["own", "inherited"])
def test_a_guarded_class_keeps_its_hook_for_subclasses(own: bool) -> None:
    """Python calls ``__init_subclass__`` of the class, or of one above it; and Celery's ``__call__`` stays."""
    named: list[str] = []

    class Hooked(Task):
        def __init_subclass__(cls, tag: str = "", **options: Any) -> None:
            super().__init_subclass__(**options)
            named.append(tag)

    class Below(Hooked, tag="below"): ...

    base: Any = leader_only(Hooked if own else Below)

    class Sub(base, tag="a"):
        def run(self) -> None: ...

    assert named == ["below", "a"]
    assert hasattr(Sub.run, "__leader_only__")
    assert Sub.__call__ is Task.__call__


def test_a_partial_gives_its_task_the_name_of_its_function(declared: Declared) -> None:
    """Two of them are two tasks."""

    def first(a: int) -> None: ...
    def second(a: int) -> None: ...

    names = [declared.app.task(shared=False)(leader_only(functools.partial(each, 1))).name for each in (first, second)]
    assert names == ["tests.tasks.test_forms.first", "tests.tasks.test_forms.second"]


class NotATask:
    """A class that is no task."""


class Nameless:
    """An object without a name."""

    def __call__(self) -> None: ...


async def coroutine() -> None: ...


@pytest.mark.parametrize("guard", [leader_only, once_per_tick], ids=["leader_only", "once_per_tick"])
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("reports", r"options are given by name, as in @\w+\(\w+="),
        (5, "got 5; options are given by name"),
        (NotATask, "functions and task classes; NotATask is neither"),
        (Nameless(), "it has no name"),
        (coroutine, "coroutine, which is a coroutine function"),
    ],
    ids=["name", "number", "class", "object", "coroutine"],
)
def test_what_can_not_be_guarded_is_refused(guard: Any, what: Any, says: str) -> None:
    """By name, with the way that works."""
    with pytest.raises(ConfigurationError, match=says):
        guard(what)


@pytest.mark.parametrize("guard", [leader_only, once_per_tick], ids=["leader_only", "once_per_tick"])
def test_a_guard_stands_below_what_makes_the_task(guard: Any) -> None:
    """Above it there is nothing left to guard: neither at a task, nor at one that is made later."""
    app = Celery("proj", broker="memory://", set_as_current=False)

    def run() -> None: ...

    for task in (app.task(shared=False)(run), app.task(shared=False, lazy=False, name="other")(run)):
        with pytest.raises(ConfigurationError, match="below"):
            guard(task)


def test_a_guard_stands_once() -> None:
    """Of two elections only one could count."""
    with pytest.raises(ConfigurationError, match="stands twice on"):

        @leader_only
        @leader_only(election="reports")
        def run() -> None: ...
