"""What wraps or overrides a base sees each tick as it does with Celery's own beat."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import celery
import pytest
from celery.beat import PersistentScheduler, ScheduleEntry, Scheduler
from celery.result import AsyncResult
from celery.schedules import BaseSchedule, crontab
from kombu.exceptions import OperationalError

from celery_leader.backends.memory import MemoryLedger
from celery_leader.beat.outbox import REFUSED_AGAIN
from celery_leader.beat.scheduler import LeaderScheduler, leader_scheduler
from celery_leader.exceptions import ConfigurationError
from tests.beat.conftest import EACH_MINUTE, EVERY_TEN, Fleet, Machine, dues

TENANTS = 3


class PerTenant(Scheduler):
    """Sends a message for each tenant, as tenant-schemas-celery does."""

    tenants = TENANTS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.results: list[Any] = []
        super().__init__(*args, **kwargs)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        for _ in range(self.tenants):
            try:
                self.results.append(self.apply_async(entry, producer=producer, advance=False))
            except Exception:
                logging.getLogger("tenants").exception("not sent")


def leading(fleet: Fleet, base: Any = Scheduler) -> Machine:
    """A machine that leads and has looked at its schedule."""
    for machine in fleet.machines:
        machine.resign()
    leader = fleet.machine(base)
    leader.lead()
    leader.tick_until_idle()
    return leader


def after(fleet: Fleet, leader: Machine, seconds: float = 10) -> list[dict[str, Any]]:
    """Let time pass, tick, and return the headers of what was sent."""
    fleet.wall.advance(seconds)
    leader.tick_until_idle()
    return fleet.sent()


@contextmanager
def counted_claims() -> Iterator[Any]:
    """Count the calls by which runs are claimed."""
    with mock.patch.object(MemoryLedger, "claim", autospec=True, side_effect=MemoryLedger.claim) as claim:
        yield claim


@contextmanager
def failing_from(machine: Machine, number: int, error: Exception) -> Iterator[None]:
    """Let the message *number* and all later ones fail; the first is 0."""
    send_task, counter = machine.scheduler.app.send_task, iter(range(10**6))

    def send(*args: Any, **kwargs: Any) -> Any:
        if next(counter) >= number:
            raise error
        return send_task(*args, **kwargs)

    with mock.patch.object(machine.scheduler.app, "send_task", send):
        yield


# -- several messages a run ------------------------------------------------------------------------------------------


def test_a_base_may_send_several_messages_a_run(fleet: Fleet) -> None:
    """One claim, all messages, an id for each, and their results for the base."""
    fleet.schedule = EVERY_TEN
    leader = leading(fleet, PerTenant)
    with counted_claims() as claim:
        sent = after(fleet, leader)
        assert claim.call_count == 1
    assert dues(sent) == [10] * TENANTS
    assert len({each["id"] for each in sent}) == TENANTS
    assert sent[0]["id"] == fleet.ledger._claims["ten"].task_id
    assert all(isinstance(result, AsyncResult) for result in leader.scheduler.results)
    assert [result.id for result in leader.scheduler.results] == [each["id"] for each in sent]
    assert leader.scheduler.counts.sent == 1
    assert {each["id"] for each in after(fleet, leader)}.isdisjoint({each["id"] for each in sent})


def test_who_sends_a_run_again_sends_the_same_messages(fleet: Fleet) -> None:
    """By the next leader, when the one before died on it, whatever it had sent."""
    fleet.schedule = EVERY_TEN
    first = leading(fleet, PerTenant)
    fleet.wall.advance(10)
    with failing_from(first, 2, SystemExit()), pytest.raises(SystemExit):  # type: ignore[arg-type]
        first.scheduler.tick()
    before = [each["id"] for each in fleet.sent()]
    assert len(before) == 2
    leading(fleet, PerTenant)
    again = [each["id"] for each in fleet.sent()]
    assert again[:2] == before
    assert len(set(again)) == TENANTS


def test_a_run_is_sent_in_full_when_the_broker_is_back(fleet: Fleet) -> None:
    """It is not asked for the rest of a run that found it away: each message would wait for it."""
    fleet.schedule = EVERY_TEN
    leader = leading(fleet, PerTenant)
    send_task = mock.Mock(side_effect=OperationalError("[Errno 111] Connection refused"))
    fleet.wall.advance(10)
    with mock.patch.object(leader.scheduler.app, "send_task", send_task):
        leader.scheduler.tick()
    assert send_task.call_count == 1
    assert not fleet.ledger._claims["ten"].sent
    leader.tick_until_idle()
    assert dues(fleet.sent()) == [10] * TENANTS
    assert fleet.ledger._claims["ten"].sent


def test_trust_that_ends_within_a_run_leaves_it_to_the_next_leader(fleet: Fleet) -> None:
    """The rest of its messages is not sent."""
    fleet.schedule = EVERY_TEN
    first = leading(fleet, PerTenant)
    send_task = first.scheduler.app.send_task

    def send_and_resign(*args: Any, **kwargs: Any) -> Any:
        first.resign()
        return send_task(*args, **kwargs)

    fleet.wall.advance(10)
    with mock.patch.object(first.scheduler.app, "send_task", send_and_resign):
        first.scheduler.tick()
    assert len(fleet.sent()) == 1
    leading(fleet, PerTenant)
    assert dues(fleet.sent()) == [10] * TENANTS


def test_a_message_that_can_never_be_sent_takes_no_other_of_its_run_along(fleet: Fleet) -> None:
    """As with Celery's beat."""
    fleet.schedule = {"bad": {"task": "t.bad", "schedule": 10.0, "args": (object(),)}, **EVERY_TEN}
    leader = leading(fleet, PerTenant)
    assert [each["task"] for each in after(fleet, leader)] == ["t.ten"] * TENANTS
    assert fleet.ledger._claims["bad"].sent


class Fails(Scheduler):
    """Fails in its own code: before it sends anything, or after."""

    fails_after = 0
    attempts = 0

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        self.attempts += 1
        for _ in range(self.fails_after):
            self.apply_async(entry, producer=producer, advance=False)
        if self.attempts == 1:
            raise LookupError("the tenants' table does not answer")
        super().apply_entry(entry, producer=producer)


def test_a_base_that_fails_before_it_sends_is_asked_again(fleet: Fleet) -> None:
    """A tick is not lost because a database that the base asks was away for a moment; others go on."""
    fleet.schedule = {**EVERY_TEN, **EACH_MINUTE}
    leader = leading(fleet, Fails)
    assert after(fleet, leader) == []
    assert [each["task"] for each in after(fleet, leader, 20)] == ["t.minute"]
    with mock.patch.object(leader.scheduler._leading.outbox, "_now", return_value=float("inf")):
        assert dues(after(fleet, leader, REFUSED_AGAIN))[0] == 10


def test_a_base_that_fails_after_it_sent_is_not_asked_again(fleet: Fleet) -> None:
    """Or what it sent would be sent again and again."""
    fleet.schedule = EVERY_TEN
    leader = leading(fleet, Fails)
    leader.scheduler.fails_after = 1
    assert dues(after(fleet, leader)) == [10]
    assert fleet.ledger._claims["ten"].sent


# -- overriding and wrapping -----------------------------------------------------------------------------------------


def test_every_method_that_a_base_overrides_is_called_for_each_message(fleet: Fleet) -> None:
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

    fleet.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(50)}
    leader = leading(fleet, Base)
    calls.clear()
    with counted_claims() as claim:
        assert len(after(fleet, leader)) == 50
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
def test_wrapped_methods_are_called_and_turn_no_batches_off(fleet: Fleet, before_import: bool) -> None:
    """Whether they were wrapped before the leader's class was made, as before our import, or after."""

    class Base(Scheduler):
        pass

    if not before_import:
        leader_scheduler(Base)
    calls: Counter[str] = Counter()
    fleet.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(50)}
    names = ("tick", "is_due", "reserve", "apply_entry", "apply_async", "send_task")
    with mock.patch.multiple(Scheduler, **{name: wrapped(vars(Scheduler)[name], calls) for name in names}):
        leader = leading(fleet, Base)
        calls.clear()
        with counted_claims() as claim:
            assert len(after(fleet, leader)) == 50
            assert claim.call_count == 1
    idle = calls.pop("tick") - 50
    assert 0 < idle <= 2
    assert calls == {name: 50 for name in names if name != "tick"}


def test_wrapped_schedules_and_entries_are_asked(fleet: Fleet) -> None:
    """Also when a plain interval is due, which is else a matter of our own arithmetic."""
    calls: Counter[str] = Counter()
    fleet.schedule = EVERY_TEN
    leader = leading(fleet)
    with mock.patch.object(ScheduleEntry, "is_due", wrapped(ScheduleEntry.is_due, calls)):
        assert len(after(fleet, leader)) == 1
        assert calls["is_due"] == 1


def test_a_base_that_forbids_a_tick_has_its_way(fleet: Fleet) -> None:
    """For one entry, and for all: nothing is claimed that it does not mean to send."""

    class Closed(Scheduler):
        is_open = False

        def tick(self, *args: Any, **kwargs: Any) -> Any:
            return super().tick(*args, **kwargs) if self.is_open else 60.0

        def is_due(self, entry: Any) -> Any:
            return (False, 5.0) if entry.name == "never" else super().is_due(entry)

    fleet.schedule = {**EVERY_TEN, "never": {"task": "t.never", "schedule": crontab()}}
    leader = leading(fleet, Closed)
    assert after(fleet, leader, 60) == []
    assert all(not claim.task_id for claim in fleet.ledger._claims.values())
    leader.scheduler.is_open = True
    assert [each["task"] for each in after(fleet, leader, 60)] == ["t.ten"]


@pytest.mark.parametrize("answer", [60.0, 0.0])
def test_a_base_that_stops_in_the_midst_is_asked_again_later(fleet: Fleet, answer: float) -> None:
    """What was claimed together with the first entry is sent with the next tick, by its id."""

    class Hesitant(Scheduler):
        ticks = 0

        def tick(self, *args: Any, **kwargs: Any) -> Any:
            self.ticks += 1
            return super().tick(*args, **kwargs) if self.ticks % 5 else answer

    fleet.schedule = {f"e{number}": {"task": "t.many", "schedule": 10.0} for number in range(20)}
    leader = leading(fleet, Hesitant)
    fleet.wall.advance(10)
    for _ in range(10):
        leader.scheduler.tick()
    sent = fleet.sent()
    assert len(sent) == len({each["id"] for each in sent}) == 20
    assert dues(sent) == [10] * 20


def test_a_base_with_a_tick_of_its_own_needs_no_heap(fleet: Fleet) -> None:
    """It asks each entry, and sends by apply_async: claimed one by one, with its result."""

    class Own(Scheduler):
        results: list[Any] = []  # noqa: RUF012

        def tick(self, *_: Any, **__: Any) -> float:
            for entry in list(self.schedule.values()):
                if self.is_due(entry)[0]:
                    self.results.append(self.apply_async(entry, producer=self.producer))
            return 1.0

    fleet.schedule = {**EVERY_TEN, **EACH_MINUTE}
    leader = leading(fleet, Own)
    assert [dues(after(fleet, leader)) for _ in range(3)] == [[10], [20], [30, 30]]
    assert len({result.id for result in Own.results}) == 4


def test_a_base_is_made_as_celery_makes_it(fleet: Fleet) -> None:
    """With its app by name: sqlalchemy-celery-beat knows it by nothing else."""

    class ByName(Scheduler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.found = kwargs["app"]
            super().__init__(*args, **kwargs)

    fleet.schedule = EVERY_TEN
    leader = leading(fleet, ByName)
    assert leader.scheduler.found is leader.scheduler.app
    assert dues(after(fleet, leader)) == [10]


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


def test_a_leader_needs_no_file_of_last_runs() -> None:
    """Celery's default scheduler adds nothing else; what a project derives from it would write one on each machine."""
    assert leader_scheduler("celery.beat:PersistentScheduler") is LeaderScheduler

    class Own(PersistentScheduler):
        """A project's."""

    with pytest.raises(ConfigurationError, match=r"derive it from celery\.beat\.Scheduler instead"):
        leader_scheduler(Own)


def told(caplog: pytest.LogCaptureFixture, name: str = "celery.beat") -> list[str]:
    """Return the first lines of what *name* logged."""
    return [each.getMessage().splitlines()[0] for each in caplog.records if each.name == name]


def test_celery_s_logger_tells_of_each_message(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """As with Celery's own beat, once: people alert on these lines."""
    caplog.set_level(logging.DEBUG, "celery.beat")
    fleet.schedule = EVERY_TEN
    leader = leading(fleet)
    caplog.clear()
    (headers,) = after(fleet, leader)
    sent = [line for line in told(caplog) if "Synchronizing" not in line]
    assert sent == ["Scheduler: Sending due task ten (t.ten)", f"t.ten sent. id->{headers['id']}"]


def test_celery_s_logger_tells_of_a_message_that_failed(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """With the error."""
    fleet.schedule = {"bad": {"task": "t.bad", "schedule": 10.0, "args": (object(),)}}
    leader = leading(fleet)
    caplog.clear()
    assert after(fleet, leader) == []
    (line,) = told(caplog)
    assert line.startswith("Message Error: Couldn't apply scheduled task bad: Object of type object is not JSON")


# -- schedules -------------------------------------------------------------------------------------------------------


class EveryOther(BaseSchedule):
    """A schedule of somebody's own, which has all that Celery asks for."""

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:  # type: ignore[override]
        left = (last_run_at + timedelta(seconds=20) - self.now()).total_seconds()
        return (True, 20.0) if left <= 0 else (False, left)


@pytest.mark.parametrize("policy", ["latest", "skip", "all"])
def test_a_schedule_needs_no_more_than_is_due(fleet: Fleet, policy: str) -> None:
    """Nothing tells since when it has been due: its runs are named by when they were found due. None comes twice."""
    fleet.schedule = {"e": {"task": "t.e", "schedule": EveryOther(), "options": {"leader_catch_up": policy}}}
    leader = leading(fleet)
    assert [dues(after(fleet, leader)) for _ in range(4)] == [[], [20], [], [40]]
    leader = leading(fleet)
    assert fleet.sent() == []
    assert [dues(after(fleet, leader)) for _ in range(2)] == [[], [60]]


NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize("takes_over", [False, True])
def test_a_crontab_runs_at_its_own_hour(fleet: Fleet, takes_over: bool) -> None:
    """Celery before 5.7 reads it off the clock that the crontab was given, later ones off the app's time zone."""
    eight = crontab(minute=0, hour=8, nowfun=lambda: fleet.wall.now.astimezone(NEW_YORK))
    fleet.schedule = {"eight": {"task": "t.eight", "schedule": eight}}
    hour = datetime(2026, 11, 24, 8, tzinfo=NEW_YORK if celery.VERSION < (5, 7) else ZoneInfo("UTC"))
    fleet.wall.now = hour - timedelta(hours=23, minutes=30)
    leader = leading(fleet)
    seen = []
    for _ in range(48):
        if takes_over:
            leader = leading(fleet)
        seen += after(fleet, leader, 3600)
    found = [datetime.fromisoformat(each["leader_due_at"]) for each in seen]
    assert found == [hour, hour + timedelta(days=1)]
