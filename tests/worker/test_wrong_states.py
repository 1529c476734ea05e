"""States in which each process is well and the whole is wrong are said, with the cure, once a minute."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

import celery_leader
from celery_leader.election import StoredRecord
from celery_leader.leadership.campaign import Campaign, backend_of
from celery_leader.settings import LeaderSettings
from celery_leader.testing import ScriptedLock, sample_record
from celery_leader.worker.wrong_states import LeadersElsewhere, UnledElection, checks_of, guarded_tasks, listed
from tests.project import Project
from tests.servers import RedisServer
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def made_app(**conf: Any) -> Celery:
    """Return an app with a guarded task in each of two elections, and a schedule."""
    app = Celery("proj", set_as_current=False, broker="redis://h")
    app.conf.update(
        {"leader_backend": "memory://", "beat_schedule": {"tick": {"task": "tick", "schedule": 1.0}}, **conf}
    )

    def work() -> None: ...

    app.task(celery_leader.leader_only(work), name="close", shared=False)
    app.task(celery_leader.leader_only(election="reports")(work), name="report", shared=False)
    return app


def checked(app: Celery, *, elections: list[str] | None = None, has_other_beat: bool = False) -> list[str]:
    """Return what a worker that takes part in *elections* checks, by election, and "memory"."""
    settings = LeaderSettings.from_app(app)
    backend = backend_of(settings, "proj")
    campaign = Campaign(settings, elections, backend=backend, nodename="w@h") if elections else None
    checks = checks_of(app, settings, backend, campaign, has_other_beat=has_other_beat)
    return [check._election if isinstance(check, UnledElection) else "memory" for check in checks]


# -- what is checked ---------------------------------------------------------------------------------------------


def test_a_worker_that_takes_part_checks_the_elections_of_others() -> None:
    """Its own electors say themselves that nobody leads."""
    on, off = {"leader_beat": True}, {"leader_beat": False}
    assert checked(made_app(**on), elections=["default"]) == ["reports", "memory"]
    assert checked(made_app(**on), elections=["default", "reports"]) == ["memory"]
    assert checked(made_app(**off, leader_backend="redis://h"), elections=["default", "reports"]) == []


def test_a_worker_that_takes_no_part_checks_all_that_its_tasks_need() -> None:
    """Every worker may have been started with --without-leader."""
    assert checked(made_app(leader_beat=True)) == ["default", "reports", "default"]  # the last for the schedule
    assert checked(made_app(leader_beat=True, beat_schedule={})) == ["default", "reports"]


def test_a_schedule_that_nobody_may_send_is_checked_unless_it_is_left_to_others() -> None:
    """leader_beat = False says so, -B shows it."""
    elections = ["default", "reports"]
    redis = {"leader_backend": "redis://h"}
    assert checked(made_app(**redis), elections=elections) == ["beat"]
    assert checked(made_app(**redis), elections=[*elections, "beat"]) == []
    assert checked(made_app(**redis), elections=elections, has_other_beat=True) == []
    assert checked(made_app(**redis, leader_beat=False), elections=elections) == []
    assert checked(made_app(**redis, beat_schedule={}), elections=elections) == []
    in_database = {"beat_schedule": {}, "leader_beat_scheduler": "django_celery_beat.schedulers:DatabaseScheduler"}
    assert checked(made_app(**redis, **in_database), elections=elections) == ["beat"]
    assert checked(made_app(**redis, **in_database, leader_beat=False), elections=elections) == []


def test_guarded_tasks_are_found_by_election() -> None:
    """By name, in order."""
    assert guarded_tasks(made_app()) == {"default": ["close"], "reports": ["report"]}


def test_long_lists_are_cut() -> None:
    """A log line is for reading."""
    assert listed("abc") == "a, b, c"
    assert listed("abcdefg") == "a, b, c, d, e, …"


# -- nobody leads ------------------------------------------------------------------------------------------------


def test_an_election_without_a_leader_is_a_warning_and_then_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever shall lead may be about to start; a minute later it is not."""
    vacant = StoredRecord(sample_record(holder_identity=""), 1)
    check = UnledElection(ScriptedLock([("get", vacant)] * 4), "reports", "2 guarded tasks (a, b) wait")
    for now, level in ((5, logging.WARNING), (35, logging.ERROR), (65, None), (95, logging.ERROR)):
        caplog.clear()
        check(now)
        assert [record.levelno for record in caplog.records] == ([level] if level else [])
    assert "'reports': nobody has led it for 90 s: 2 guarded tasks (a, b) wait" in caplog.text


def test_an_election_that_is_led_is_no_concern(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever leads it, wherever; and one that was vacant for a moment begins anew."""
    led = [StoredRecord(sample_record(), version) for version in range(1, 4)]
    vacant = StoredRecord(sample_record(holder_identity=""), 9)
    script = [("get", answer) for answer in (led[0], led[1], vacant, led[2], vacant)]
    check = UnledElection(ScriptedLock(script), "reports", "x")
    for number in range(5):
        check(number * 60)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]


# -- memory:// ---------------------------------------------------------------------------------------------------


@pytest.fixture
def campaign() -> Iterator[Campaign]:
    """A process that leads an election in its memory."""
    app = made_app()
    settings = LeaderSettings.from_app(app)
    campaign = Campaign(settings, ["default"], backend=backend_of(settings, "proj"), nodename="w@h")
    campaign.start()
    eventually(campaign.candidates["default"].elector.is_leader)
    yield campaign
    campaign.stop()


def asked(replies: Any) -> Any:
    """Return an app whose workers answer so."""

    def broadcast(command: str, **options: Any) -> Any:
        assert (command, options["reply"]) == ("leader_status", True)
        if isinstance(replies, Exception):
            raise replies
        return replies

    return SimpleNamespace(control=SimpleNamespace(broadcast=broadcast))


def test_another_leader_is_named(campaign: Campaign, caplog: pytest.LogCaptureFixture) -> None:
    """Both lead by their own memory."""
    theirs = {"leading": True, "identity": "other/1/x"}
    LeadersElsewhere(asked([{"w@other": {"elections": {"default": theirs}}}]), campaign)(0)
    assert "'default': w@other leads it, and so does this worker" in caplog.text
    assert "leader_backend is memory://" in caplog.text


@pytest.mark.parametrize(
    "theirs",
    [
        lambda own: [{"w@h": {"elections": {"default": {"leading": True, "identity": own}}}}],
        lambda own: [{"w@other": {"elections": {"default": {"leading": False, "identity": "other/1/x"}}}}],
        lambda own: [{"w@other": {"elections": {"reports": {"leading": True, "identity": "other/1/x"}}}}],
        lambda own: [{"w@other": {"error": "unknown command"}}],
        lambda own: None,
        lambda own: OSError("no broker"),
    ],
    ids=["itself", "a follower", "another election", "an older worker", "nobody", "no remote control"],
)
def test_whoever_does_not_lead_as_well_is_no_concern(
    campaign: Campaign, caplog: pytest.LogCaptureFixture, theirs: Callable[[str], Any]
) -> None:
    """The worker itself answers, too."""
    LeadersElsewhere(asked(theirs(campaign.identity)), campaign)(0)
    assert not caplog.records


# -- real workers ------------------------------------------------------------------------------------------------

PROJECT = """
    from celery import Celery
    import celery_leader

    app = Celery("proj", broker={broker!r})
    app.conf.update(
        leader_backend={backend!r}, {settings}
        leader_lease_duration=2, leader_renew_deadline=1.5, leader_retry_period=0.5,
        beat_schedule={{"tick": {{"task": "proj.tick", "schedule": 1.0}}}},
    )
    celery_leader.setup(app)

    @app.task
    def tick(): ...

    @app.task
    @celery_leader.leader_only
    def close(): ...
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty folder."""
    with Project(tmp_path) as project:
        yield project


@pytest.mark.redis
def test_two_workers_on_memory_find_each_other(project: Project, redis_server: RedisServer) -> None:
    """No store tells them; the broker does."""
    project.write("proj.py", PROJECT.format(broker=redis_server.url, backend="memory://", settings="leader_beat=True,"))
    workers = [project.start("worker", "-P", "solo", "-n", f"{name}@h") for name in "ab"]
    lines = [worker.await_line("leads it, and so does this worker", 60) for worker in workers]
    assert "b@h leads it" in lines[0]
    assert "a@h leads it" in lines[1]


@pytest.mark.redis
def test_a_schedule_and_tasks_that_nobody_serves_are_said(project: Project, redis_server: RedisServer) -> None:
    """The only worker takes no part, and leader_beat was forgotten."""
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.flushall()  # a worker that another test has killed may still hold a lease
    project.write("proj.py", PROJECT.format(broker=redis_server.url, backend=redis_server.url, settings=""))
    worker = project.start("worker", "-P", "solo", "--without-leader")
    worker.await_line(r"'default': nobody leads it now: 1 guarded tasks \(proj.close\) wait until somebody does")
    worker.await_line(r"'beat': nobody leads it now: 1 entries of beat_schedule \(tick\) are NOT sent")
    assert worker.end() == 0


@pytest.mark.redis
def test_a_schedule_is_not_sent_where_every_worker_stands_aside(project: Project, redis_server: RedisServer) -> None:
    """leader_beat is set, and no worker that takes part was started."""
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.flushall()
    settings = "leader_beat=True,"
    project.write("proj.py", PROJECT.format(broker=redis_server.url, backend=redis_server.url, settings=settings))
    worker = project.start("worker", "-P", "solo", "--without-leader")
    line = worker.await_line(r"'default': nobody leads it now: 1 entries of beat_schedule \(tick\) are NOT sent")
    assert "Start a worker without --without-leader." in line
    assert worker.end() == 0


@pytest.mark.redis
def test_two_deployments_under_one_key_are_said(project: Project, redis_server: RedisServer) -> None:
    """The second never leads: its log says who does, and what to set."""
    one, two = redis_server.url, redis_server.url[:-1] + "1"
    project.write("one.py", PROJECT.format(broker=one, backend=one, settings=""))
    project.write("two.py", PROJECT.format(broker=two, backend=one, settings=""))
    project.start("worker", "-P", "solo", "-n", "a@h", "-l", "INFO", app="one").await_line("started leading")
    line = project.start("worker", "-P", "solo", "-n", "b@h", app="two").await_line("another deployment", 30)
    assert f"another deployment: proj on {one}. This one is proj on {two}." in line
    assert "leader_key_prefix" in line


@pytest.mark.redis
def test_a_store_that_is_away_is_said_until_it_is_back(project: Project, redis_server: RedisServer) -> None:
    """By the log and by ``inspect leader_status``, though the worker itself is ready."""
    with RedisServer() as store:
        store.stop()
        project.write(
            "proj.py", PROJECT.format(broker=redis_server.url, backend=store.url, settings="leader_beat=True,")
        )
        worker = project.start("worker", "-P", "solo", "-n", "a@h")
        line = worker.await_line("ERROR.*'default': a@h/.* has not been able to take part for")
        assert "Connection refused" in line
        assert "periodic tasks are NOT sent and guarded tasks wait. Start the store" in line
        inspected = project.celery("inspect", "-j", "leader_status")
        status = json.loads(inspected.stdout)["a@h"]["elections"]["default"]
        assert not status["leading"]
        assert "Connection refused" in status["trouble"]
        assert project.celery("leader", "status").returncode == 69
        store.start()
        worker.await_line(rf"WARNING.*'default': {store.url} .*answers again after \d")
        eventually(lambda: project.celery("leader", "status", "--check").returncode == 0, 30)
