"""A plain beat beside the leader's is noticed by what it sends, and nothing else is taken for one."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from celery import Celery
from celery.beat import BeatLazyFunc, Scheduler
from celery.schedules import crontab
from celery.utils.saferepr import saferepr

from celery_leader.backends import open_backend
from celery_leader.beat import second_sender
from celery_leader.beat.scheduler import LeaderScheduler
from celery_leader.beat.second_sender import SecondSenders, refuse_second_sender
from celery_leader.ledger import DUE_HEADER
from celery_leader.testing import sample_record
from tests.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers import RedisServer

SCHEDULE = {
    "ten": {"task": "t.ten", "schedule": 10.0, "args": ["x"]},
    "minute": {"task": "t.minute", "schedule": crontab()},
    "lazy": {"task": "t.lazy", "schedule": 1.0, "args": [BeatLazyFunc(lambda: 1)]},
    "broken": {"task": "t.broken", "schedule": SimpleNamespace(now=lambda: 1)},
}
BEAT, WEB = "gen11@cron", "gen22@web"


class Worker:
    """A worker that receives messages at times that a test names."""

    def __init__(self, entries: dict[str, Any] = SCHEDULE) -> None:
        self.now = 1000.0
        self.senders = SecondSenders(lambda: entries, lambda: self.now)

    def receive(self, task: str, args: Any = (), *, origin: str = BEAT, wait: float = 0.0, **headers: Any) -> None:
        """Receive one message, *wait* seconds after the one before."""
        self.now += wait
        request = SimpleNamespace(
            request_dict={"task": task, "origin": origin, **headers}, argsrepr=saferepr(args), kwargsrepr="{}"
        )
        self.senders.received(request=request)

    def receive_leaders(self, task: str, args: Any = (), **headers: Any) -> None:
        """Receive a message of the leader's beat."""
        self.receive(task, args, origin="gen1@leader", **{DUE_HEADER: "2026-01-01T00:00:00+00:00"}, **headers)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the errors logged so far."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_a_second_beat_is_named_by_its_process(errors: Callable[[], list[str]]) -> None:
    """Four messages in a row at the entry's times; others of the same time are another worker's."""
    worker = Worker()
    worker.receive_leaders("t.ten", ["x"])
    for wait in (0, 10.2, 29.9, 10):
        assert not errors()
        worker.receive("t.ten", ["x"], wait=wait)
    (text,) = errors()
    assert text.startswith(f"{BEAT} sends the periodic task 'ten', and so does the leader's beat")
    assert "twice" in text


def test_it_is_said_once_a_minute_while_it_sends(errors: Callable[[], list[str]]) -> None:
    """However many entries it has."""
    worker = Worker()
    worker.receive_leaders("t.ten", ["x"])
    for _ in range(20):
        worker.receive("t.ten", ["x"], wait=10)
    assert len(errors()) == 3


@pytest.mark.parametrize(
    ("message", "waits"),
    [
        ({"args": ("x",)}, [10] * 9),  # delay() sends a tuple
        ({"args": ["y"]}, [10] * 9),
        ({"args": ["x"], "origin": WEB}, [3, 14, 10, 7, 10, 26, 10, 10, 4]),
        ({"args": ["x"]}, [11.2] * 9),
        ({"args": ["x"]}, [0.01] * 9),
    ],
    ids=["called by code", "other arguments", "at other times", "at a slower pace", "a burst"],
)
def test_calls_by_the_projects_code_are_none(
    errors: Callable[[], list[str]], message: dict[str, Any], waits: list[float]
) -> None:
    """They differ in arguments or times."""
    worker = Worker()
    worker.receive_leaders("t.ten", ["x"])
    for wait in waits:
        worker.receive("t.ten", wait=wait, **message)
    assert not errors()


@pytest.mark.parametrize(("gap", "is_told"), [(601.9, True), (603, False)])
def test_long_periods_leave_no_more_room_than_short_ones(
    errors: Callable[[], list[str]], gap: float, is_told: bool
) -> None:
    """A tenth of ten minutes would let a call by anybody pass for a beat's."""
    worker = Worker({"long": {"task": "t.long", "schedule": timedelta(minutes=10)}})
    worker.receive_leaders("t.long")
    for _ in range(4):
        worker.receive("t.long", wait=gap)
    assert bool(errors()) is is_told


def test_a_plain_beat_that_sends_alone_is_right(errors: Callable[[], list[str]]) -> None:
    """No leader's beat sends the entry: leader_beat is off, and somebody must."""
    worker = Worker()
    for _ in range(9):
        worker.receive("t.ten", ["x"], wait=10)
    assert not errors()


def test_several_processes_that_each_call_once_are_none(errors: Callable[[], list[str]]) -> None:
    """A cron job is another process each time, and its own affair."""
    worker = Worker()
    worker.receive_leaders("t.ten", ["x"])
    for number in range(9):
        worker.receive("t.ten", ["x"], origin=f"gen{number}@cron", wait=10)
    assert not errors()


@pytest.mark.parametrize(("second", "is_told"), [(2, True), (30, False)])
def test_crontabs_are_compared_with_the_clock(errors: Callable[[], list[str]], second: int, is_told: bool) -> None:
    """A message that comes soon after a minute begins may well be a beat's."""
    worker = Worker({"minute": {"task": "t.minute", "schedule": (cron := crontab())}})
    worker.receive_leaders("t.minute")
    for minute in range(4):
        now = datetime(2026, 1, 1, 12, minute, second, tzinfo=timezone.utc)
        cron.nowfun = lambda now=now: now
        worker.receive("t.minute", wait=60)
    assert bool(errors()) is is_told


def test_django_celery_beats_entries_are_known_by_their_header(errors: Callable[[], list[str]]) -> None:
    """Their schedules are in the database: a second beat's messages come as often as the leader's."""
    worker = Worker({})
    for _ in range(4):
        worker.receive_leaders("t.any", periodic_task_name="mine")
        worker.receive("t.any", wait=17, periodic_task_name="mine")
    assert len(errors()) == 1
    assert "'mine'" in errors()[0]


@pytest.mark.parametrize("leaders", [0, 5])
def test_tasks_that_are_run_by_hand_in_the_admin_are_none(errors: Callable[[], list[str]], leaders: int) -> None:
    """They carry the entry's name as well: a click after the other, or one a day."""
    worker = Worker({})
    worker.receive_leaders("t.any", periodic_task_name="mine")
    for _ in range(9):
        for _ in range(leaders):
            worker.receive_leaders("t.any", periodic_task_name="mine")
        worker.receive("t.any", origin=WEB, wait=17, periodic_task_name="mine")
    assert not errors()


@pytest.mark.parametrize("task", ["t.lazy", "t.broken", "t.unknown"])
def test_what_can_not_be_compared_is_left_alone(errors: Callable[[], list[str]], task: str) -> None:
    """Arguments that are computed when a message is sent, a schedule that fails, a task without an entry."""
    worker = Worker()
    for _ in range(9):
        worker.receive_leaders(task)
        worker.receive(task, wait=1)
    assert not errors()


# -- a plain beat that starts ------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The checks of each watch that was made, which starts no thread."""
    made: list[Any] = []
    monkeypatch.setattr(second_sender, "Watch", lambda checks: made.extend(checks) or mock.Mock())
    return made


def start_beat(url: str, scheduler: type[Scheduler] = Scheduler, **conf: Any) -> None:
    """Start a beat of an app that keeps its elections at *url*."""
    app = Celery("proj", broker="redis://", set_as_current=False)
    app.conf.update(leader_backend=url, **conf)
    refuse_second_sender(SimpleNamespace(app=app, scheduler=scheduler(app, lazy=True)))


def test_a_plain_beat_beside_leader_beat_ends(watched: list[Any]) -> None:
    """With a sentence: the workers' beats send already."""
    with pytest.raises(SystemExit, match="every periodic task would be sent twice"):
        start_beat("memory://", leader_beat=True)
    assert not watched


@pytest.mark.parametrize("conf", [{"leader_beat": True}, {}])
def test_a_beat_that_follows_the_leader_is_no_second_sender(watched: list[Any], conf: dict[str, Any]) -> None:
    """It contends, and sends while it leads."""
    start_beat("memory://", LeaderScheduler, **conf)
    assert not watched


def test_a_plain_beat_looks_whether_a_leaders_beat_sends(watched: list[Any], errors: Callable[[], list[str]]) -> None:
    """Without leader_beat the store tells: a record that changes has a leader."""
    lock = open_backend("memory://second-sender", prefix="proj").lock("beat")
    stored = lock.create(sample_record(holder_identity="beat@a/1/b"))
    start_beat("memory://second-sender")
    (check,) = watched
    check(0)
    assert not errors()
    lock.update(sample_record(holder_identity="beat@a/1/b"), stored)
    check(60)
    assert "This beat follows no leader, and beat@a/1/b leads beats of the same app" in errors()[0]


def test_a_plain_beat_without_a_store_is_left_alone(watched: list[Any]) -> None:
    """There is no election that it could disturb."""
    start_beat("")
    assert not watched


# -- real processes ----------------------------------------------------------------------------------------------

PLAIN = """
    from celery import Celery
    app = Celery("proj", broker={broker!r})
    app.conf.beat_schedule = {{"tick": {{"task": "proj.tick", "schedule": 1.0, "args": ["x"]}}}}
"""
OURS = """
    from plain import app
    import celery_leader
    app.conf.update(leader_backend={broker!r}, leader_beat=True)
    celery_leader.setup(app)

    @app.task
    def tick(word): ...
"""


@pytest.mark.redis
def test_a_beat_with_older_code_is_found(tmp_path: Path, redis_server: RedisServer) -> None:
    """It was left running on another machine, and knows nothing of us: its messages give it away."""
    with Project(tmp_path) as project:
        project.write("plain.py", PLAIN.format(broker=redis_server.url))
        project.write("proj.py", OURS.format(broker=redis_server.url))
        beat = project.start("beat", "--schedule", "last-runs", app="plain")
        worker = project.start("worker", "-P", "solo")
        line = worker.await_line("sends the periodic task 'tick', and so does the leader's beat", timeout=60)
        assert f"gen{beat.pid}@" in line
        assert "ERROR" in line
