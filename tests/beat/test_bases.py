"""What wraps or overrides a base sees each tick as it does with Celery's own beat."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from celery.beat import PersistentScheduler, ScheduleEntry, Scheduler
from celery.schedules import crontab

from celery_leader.beat.scheduler import LeaderScheduler, leader_scheduler
from celery_leader.exceptions import ConfigurationError
from tests.beat.machines import EACH_MINUTE, EVERY_TEN, Machines, counted_claims, dues


def test_every_method_that_a_base_overrides_is_called_for_each_message(machines: Machines) -> None:
    """As Celery's own tick does, though all runs are claimed in one call."""
    calls: Counter[str] = Counter()

    class Base(Scheduler):
        def is_due(self, entry: Any) -> Any:
            due = super().is_due(entry)
            calls["is_due"] += bool(due[0])
            return due

        def reserve(self, entry: Any) -> Any:
            calls["reserve"] += 1
            return super().reserve(entry)

        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            calls["apply_entry"] += 1
            super().apply_entry(entry, producer=producer)

        def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
            calls["apply_async"] += 1
            return super().apply_async(entry, producer=producer, advance=advance, **kwargs)

        def send_task(self, *args: Any, **kwargs: Any) -> Any:
            calls["send_task"] += 1
            return super().send_task(*args, **kwargs)

    machines.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(50)}
    leader = machines.leader(Base)
    calls.clear()
    with counted_claims() as claim:
        assert len(machines.after(leader)) == 50
        assert claim.call_count == 1
    assert calls == dict.fromkeys(("is_due", "reserve", "apply_entry", "apply_async", "send_task"), 50)


def wrapped(method: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    """Return *method* as a program that instruments Celery would replace it."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls[method.__name__] += 1
        return method(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("before_import", [True, False])
def test_wrapped_methods_are_called_and_turn_no_batches_off(machines: Machines, before_import: bool) -> None:
    """Whether they were wrapped before the leader's class was made, as before our import, or after."""

    class Base(Scheduler):
        pass

    if not before_import:
        leader_scheduler(Base)
    calls: Counter[str] = Counter()
    machines.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(50)}
    names = ("tick", "is_due", "reserve", "apply_entry", "apply_async", "send_task")
    with mock.patch.multiple(Scheduler, **{name: wrapped(vars(Scheduler)[name], calls) for name in names}):
        leader = machines.leader(Base)
        calls.clear()
        with counted_claims() as claim:
            assert len(machines.after(leader)) == 50
            assert claim.call_count == 1
    idle = calls.pop("tick") - 50
    assert 0 < idle <= 2
    assert calls == {name: 50 for name in names if name != "tick"}


def test_wrapped_schedules_and_entries_are_asked(machines: Machines) -> None:
    """Also when a plain interval is due, which is else a matter of our own arithmetic."""
    calls: Counter[str] = Counter()
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    with mock.patch.object(ScheduleEntry, "is_due", wrapped(ScheduleEntry.is_due, calls)):
        assert len(machines.after(leader)) == 1
        assert calls["is_due"] == 1


def test_a_base_that_forbids_a_tick_has_its_way(machines: Machines) -> None:
    """For one entry, and for all: nothing is claimed that it does not mean to send."""

    class Closed(Scheduler):
        is_open = False

        def tick(self, *args: Any, **kwargs: Any) -> Any:
            return super().tick(*args, **kwargs) if self.is_open else 60.0

        def is_due(self, entry: Any) -> Any:
            return (False, 5.0) if entry.name == "never" else super().is_due(entry)

    machines.schedule = {**EVERY_TEN, "never": {"task": "t.never", "schedule": crontab()}}
    leader = machines.leader(Closed)
    assert machines.after(leader, 60) == []
    assert all(not claim.task_id for claim in machines.ledger._claims.values())
    leader.scheduler.is_open = True
    assert [each["task"] for each in machines.after(leader, 60)] == ["t.ten"]


@pytest.mark.parametrize("answer", [60.0, 0.0])
def test_a_base_that_stops_in_the_midst_is_asked_again_later(machines: Machines, answer: float) -> None:
    """What was claimed together with the first entry is sent with the next tick, by its id."""

    class Hesitant(Scheduler):
        ticks = 0

        def tick(self, *args: Any, **kwargs: Any) -> Any:
            self.ticks += 1
            return super().tick(*args, **kwargs) if self.ticks % 5 else answer

    machines.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(20)}
    leader = machines.leader(Hesitant)
    machines.wall.advance(10)
    for _ in range(10):
        leader.scheduler.tick()
    sent = machines.sent()
    assert len(sent) == len({each["id"] for each in sent}) == 20
    assert dues(sent) == [10] * 20


def test_a_base_with_a_tick_of_its_own_needs_no_heap(machines: Machines) -> None:
    """It asks each entry, and sends by apply_async: claimed one by one, with its result."""

    class Own(Scheduler):
        results: list[Any] = []  # noqa: RUF012

        def tick(self, *_: Any, **__: Any) -> float:
            for entry in list(self.schedule.values()):
                if self.is_due(entry)[0]:
                    self.results.append(self.apply_async(entry, producer=self.producer))
            return 1.0

    machines.schedule = {**EVERY_TEN, **EACH_MINUTE}
    leader = machines.leader(Own)
    assert [dues(machines.after(leader)) for _ in range(3)] == [[10], [20], [30, 30]]
    assert len({result.id for result in Own.results}) == 4


def test_a_base_is_made_as_celery_makes_it(machines: Machines) -> None:
    """With its app by name: sqlalchemy-celery-beat knows it by nothing else."""

    class ByName(Scheduler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.found = kwargs["app"]
            super().__init__(*args, **kwargs)

    machines.schedule = EVERY_TEN
    leader = machines.leader(ByName)
    assert leader.scheduler.found is leader.scheduler.app
    assert dues(machines.after(leader)) == [10]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nowhere.to.be:Found", "ModuleNotFoundError: No module named 'nowhere'"),
        ("celery.beat:Schedular", "AttributeError: module 'celery.beat' has no attribute 'Schedular'"),
        ("celery.beat:ScheduleEntry", "TypeError: ScheduleEntry is no celery.beat.Scheduler"),
    ],
)
def test_a_scheduler_that_can_not_be_used_is_refused_in_a_sentence(name: str, error: str) -> None:
    """With its name, the reason and the cure."""
    with pytest.raises(ConfigurationError) as refused:
        leader_scheduler(name)
    assert str(refused.value).startswith(f"The scheduler '{name}' can't be used: {error}. Name its class")


@pytest.mark.parametrize("name", ["apply_entry", "is_due", "populate_heap", "reserve"])
def test_what_would_stand_before_the_claims_is_refused(name: str) -> None:
    """Overridden above a leader's scheduler it would lose messages, or not be asked; below, in a base, it works."""
    override = {name: lambda self, *args, **kwargs: None, "__module__": "proj.schedulers"}
    with pytest.raises(ConfigurationError, match=rf"LeaderTenants overrides {name} of .*leader_scheduler"):
        type("LeaderTenants", (LeaderScheduler,), override)
    with pytest.raises(ConfigurationError):
        type("LeaderTenants", (type("Plain", (), override), LeaderScheduler), {"__module__": "proj.schedulers"})
    type("LeaderWithATask", (LeaderScheduler,), {"send_task": override[name], "__module__": "proj.schedulers"})


# -- what Celery's logger tells --------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture, name: str = "celery.beat") -> list[str]:
    """Return the first lines of what *name* logged."""
    return [each.getMessage().splitlines()[0] for each in caplog.records if each.name == name]


def test_celery_s_logger_tells_of_each_message(machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
    """As with Celery's own beat, once: people alert on these lines."""
    caplog.set_level(logging.DEBUG, "celery.beat")
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    caplog.clear()
    (headers,) = machines.after(leader)
    sent = [line for line in told(caplog) if "Synchronizing" not in line]
    assert sent == ["Scheduler: Sending due task ten (t.ten)", f"t.ten sent. id->{headers['id']}"]


def test_celery_s_logger_tells_of_a_message_that_failed(machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
    """With the error."""
    machines.schedule = {"bad": {"task": "t.bad", "schedule": 10.0, "args": (object(),)}}
    leader = machines.leader()
    caplog.clear()
    assert machines.after(leader) == []
    (line,) = told(caplog)
    assert line.startswith("Message Error: Couldn't apply scheduled task bad: Object of type object is not JSON")


def test_a_leader_needs_no_file_of_last_runs() -> None:
    """Celery's default scheduler adds nothing else; what a project derives from it would write one on each machine."""
    assert leader_scheduler("celery.beat:PersistentScheduler") is LeaderScheduler

    class Own(PersistentScheduler):
        """A project's."""

    with pytest.raises(ConfigurationError, match=r"derive it from celery\.beat\.Scheduler instead"):
        leader_scheduler(Own)
