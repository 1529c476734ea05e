"""django-celery-beat's schedule: what its admin says happens."""

from __future__ import annotations

import gc
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.core.checks import run_checks
from django.db import OperationalError, connection
from django.test.client import Client
from django.test.utils import CaptureQueriesContext

from celery_leader.beat import scheduler
from celery_leader.beat.embedded import EmbeddedBeat
from tests.beat.bases.conftest import (
    DatabaseMachines,
    dies_before_writing,
    names,
    on_each_database,
    on_postgres,
)
from tests.beat.machines import dues
from tests.servers import PostgresServer
from tests.waiting import eventually

pytestmark = pytest.mark.bases


@on_each_database
def test_a_standby_neither_reads_nor_writes_the_schedule(dcb: DatabaseMachines) -> None:
    """Not at its start, not in a tick, not at its end, when the base would write once more."""
    dcb.machines.schedule = {"other": {"task": "t.other", "schedule": 5.0}}
    dcb.add("ten")
    before = dcb.tables()
    dcb.machines.wall.advance(60)
    with CaptureQueriesContext(connection) as queries, mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        standby = dcb.machine()
        assert standby.scheduler.tick() == 0
        standby.scheduler.close()
        standby.scheduler._finalize()
    assert queries.captured_queries == []
    assert dcb.tables() == before
    assert dcb.machines.sent() == []


def test_entries_of_the_settings_run_though_beats_start_more_often_than_they_are_due(dcb: DatabaseMachines) -> None:
    """The base writes them at each start, and counts the period of what never ran from then."""
    dcb.machines.schedule = {
        "hour": {"task": "t.hour", "schedule": 3600.0, "args": (1,), "options": {"queue": "celery"}}
    }
    sent = []
    for _ in range(4):
        leader = dcb.leader()
        sent += dcb.machines.after(leader, 1500)
    assert dues(sent) == [3600]


def test_a_start_writes_no_entry_that_is_as_it_was(dcb: DatabaseMachines) -> None:
    """Of no kind; nor does it enable what somebody disabled."""
    from celery.schedules import crontab as celery_crontab

    del dcb.machines.conf["result_expires"]  # with the entry of Celery's own
    dcb.machines.schedule = {
        "interval": {"task": "t.interval", "schedule": timedelta(minutes=5), "kwargs": {"b": 1, "a": [2]}},
        "crontab": {"task": "t.crontab", "schedule": celery_crontab(hour="7-9", day_of_week="mon"), "args": (1, "x")},
        "options": {"task": "t.options", "schedule": 60, "options": {"queue": "q", "priority": 3, "headers": {"h": 1}}},
    }
    dcb.leader()
    dcb.machines.wall.advance(1)
    dcb.edit("interval", enabled=False)
    before = dcb.tables()["django_celery_beat_periodictask"]
    assert len(before) == 4
    dcb.machines.wall.advance(1)
    leader = dcb.leader()
    assert dcb.tables()["django_celery_beat_periodictask"] == before
    assert "interval" not in leader.scheduler.schedule


def test_an_edit_of_the_settings_reaches_the_database(dcb: DatabaseMachines) -> None:
    """With the next beat that starts, as it does without us."""
    dcb.machines.schedule = {"e": {"task": "t.e", "schedule": 3600.0}}
    dcb.leader()
    dcb.machines.wall.advance(1)
    dcb.machines.schedule = {"e": {"task": "t.e", "schedule": 20.0}}
    leader = dcb.leader()
    assert dcb.row("e").interval.every == 20
    assert names(dcb.machines.after(leader, 20)) == ["e"]


@on_each_database
def test_edits_take_effect_with_the_next_tick(dcb: DatabaseMachines) -> None:
    """New entries, other schedules, other arguments, disabled entries, entries that are gone."""
    from django_celery_beat.models import IntervalSchedule

    dcb.add("ten")
    leader = dcb.leader()
    assert leader.scheduler.max_interval == 5
    dcb.machines.wall.advance(1)
    dcb.add("new")
    assert names(dcb.machines.after(leader, 9)) == ["ten"]
    assert names(dcb.machines.after(leader, 1)) == ["new"]
    slow, _ = IntervalSchedule.objects.get_or_create(every=30, period=IntervalSchedule.SECONDS)
    dcb.edit("ten", interval=slow)
    dcb.edit("new", enabled=False)
    assert dcb.machines.after(leader, 28) == []
    assert names(dcb.machines.after(leader, 1)) == ["ten"]
    dcb.edit("ten", queue="elsewhere")
    assert dcb.machines.after(leader, 30) == []
    assert dcb.ran("ten")[1] == 3
    dcb.row("ten").delete()
    leader.tick_until_idle()
    assert dcb.machines.after(leader, 60) == []


def test_an_edit_while_the_schedule_could_not_be_read_is_seen_later(dcb: DatabaseMachines) -> None:
    """The base takes a schedule that it failed to read for read."""
    dcb.add("ten")
    leader = dcb.leader()
    dcb.machines.wall.advance(1)
    dcb.add("new")
    with mock.patch.object(leader.scheduler, "all_as_schedule", side_effect=OperationalError("gone")):
        assert leader.scheduler.tick() > 0
    assert sorted(names(dcb.machines.after(leader, 10))) == ["new", "ten"]


def test_the_actions_of_the_admin(dcb: DatabaseMachines) -> None:
    """Disable and enable: they go past the model, and say so by the change marker only."""
    from django.contrib.auth.models import User

    User.objects.create_superuser("root", password="root")
    client = Client()
    assert client.login(username="root", password="root")
    pk = dcb.add("ten").pk
    leader = dcb.leader()

    def act(action: str) -> None:
        dcb.machines.wall.advance(1)
        form = {"action": action, "_selected_action": [pk]}
        assert client.post("/admin/django_celery_beat/periodictask/", form).status_code == 302

    assert names(dcb.machines.after(leader, 10)) == ["ten"]
    act("disable_tasks")
    assert dcb.machines.after(leader, 30) == []
    assert dcb.ran("ten") == (None, 1)
    act("enable_tasks")
    assert names(dcb.machines.after(leader, 1)) == ["ten"]
    assert dcb.ran("ten") == (dcb.machines.wall.now, 2)


def test_the_admin_knows_our_scheduler_for_the_right_one(dcb: DatabaseMachines) -> None:
    """It warns of others; a short name it would not find."""
    from django_celery_beat.utils import is_database_scheduler

    assert is_database_scheduler("celery_leader.beat.scheduler:LeaderDatabaseScheduler")
    assert scheduler.LeaderDatabaseScheduler is scheduler.leader_scheduler("leader-django")


@pytest.mark.parametrize("name", ["leader", "leader-django"])
def test_w003_a_short_name_that_its_admin_does_not_find(dcb: DatabaseMachines, settings: Any, name: str) -> None:
    """Its list of tasks would be an error page; the hint names the path that works."""
    from django_celery_beat.utils import is_database_scheduler

    with pytest.raises(ImportError):
        is_database_scheduler(name)
    settings.CELERY_BEAT_SCHEDULER = name
    (warning,) = [message for message in run_checks() if message.id == "celery_leader.W003"]
    path = warning.hint.split('"')[1]
    is_database_scheduler(path)
    settings.CELERY_BEAT_SCHEDULER = path
    assert "celery_leader.W003" not in [message.id for message in run_checks()]


@on_postgres
def test_a_connection_that_broke_ends_no_beat(dcb: DatabaseMachines, postgres_server: PostgresServer) -> None:
    """Neither at a takeover nor in the midst of a term: the next tick has another."""
    dcb.add("ten")

    def cut() -> None:
        connection.ensure_connection()
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'bases' AND pid <> pg_backend_pid()"
        )

    leader = dcb.machine()
    leader.lead()
    cut()
    assert leader.scheduler.tick() >= 0
    leader.tick_until_idle()
    assert names(dcb.machines.after(leader, 10)) == ["ten"]
    cut()
    dcb.machines.wall.advance(10)
    for _ in range(3):
        leader.scheduler.tick()
    assert names(dcb.machines.sent()) == ["ten"]
    assert dcb.ran("ten") == (dcb.machines.wall.now, 2)


def test_a_project_without_time_zones(dcb: DatabaseMachines, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its database takes no times that have one."""
    from django.utils import timezone as django_timezone
    from django_celery_beat.schedulers import ModelEntry

    settings.USE_TZ = False
    settings.TIME_ZONE = "UTC"
    settings.DJANGO_CELERY_BEAT_TZ_AWARE = False
    for place in ((ModelEntry, "_default_now"), (django_timezone, "now")):
        monkeypatch.setattr(*place, lambda *_: dcb.machines.wall.now.replace(tzinfo=None))
    dcb.add("ten")
    first = dcb.leader()
    dcb.machines.wall.advance(10)
    dies_before_writing(first)
    assert dues(dcb.machines.sent()) == [10]
    second = dcb.leader()
    assert dcb.ran("ten") == (dcb.machines.wall.now.replace(tzinfo=None), 1)
    assert dues(dcb.machines.after(second, 10)) == [20]
    assert dcb.ran("ten") == (dcb.machines.wall.now.replace(tzinfo=None), 2)


def test_a_takeover_without_a_schedule_waits_for_it(dcb: DatabaseMachines) -> None:
    """Who leads and can't read the schedule does not end, and begins as soon as it can."""
    dcb.add("ten")
    leader = dcb.machine()
    leader.lead()
    with (
        mock.patch.object(leader.scheduler, "all_as_schedule", side_effect=OperationalError("gone")),
        mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01),
    ):
        assert leader.scheduler.tick() == 0
    leader.tick_until_idle()
    assert names(dcb.machines.after(leader, 10)) == ["ten"]


@on_postgres
def test_the_beat_of_a_worker_that_ended_has_no_connection(
    dcb: DatabaseMachines, postgres_server: PostgresServer
) -> None:
    """The test database that it used can be dropped, without waiting for Python to collect garbage."""

    def connections_of_beats() -> int:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'bases' AND query ILIKE '%periodictask%'"
        return int(postgres_server.execute(sql))

    dcb.add("ten")
    dcb.machines.conf["leader_beat_scheduler"] = "django_celery_beat.schedulers:DatabaseScheduler"
    machine = dcb.machine()
    connection.close()
    beat = EmbeddedBeat(machine.scheduler.app, machine.campaign)
    machine.lead()
    gc.disable()
    try:
        beat.start()
        eventually(lambda: connections_of_beats() == 1)
        machine.resign()  # as a worker does before it ends
        beat.stop(timeout=5)
        eventually(lambda: connections_of_beats() == 0)
    finally:
        gc.enable()
