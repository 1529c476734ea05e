"""django-celery-beat's schedule: what its admin says happens, and what happens is said in its admin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError, connection
from django.test.client import Client
from django.test.utils import CaptureQueriesContext

from tests.beat.bases.conftest import DatabaseFleet, on_each_database, on_postgres
from tests.beat.conftest import START, Machine
from tests.beat.test_scheduler import broken_broker, dues
from tests.servers import PostgresServer

pytestmark = pytest.mark.bases


def names(headers: list[dict[str, Any]]) -> list[str]:
    """Return the tasks of *headers*, without their prefix."""
    return [each["task"].removeprefix("t.") for each in headers]


def crontab(**fields: str) -> Any:
    """Return a crontab in the database."""
    from django_celery_beat.models import CrontabSchedule

    return CrontabSchedule.objects.create(**{"minute": "*", "hour": "*", **fields})


@contextmanager
def no_updates() -> Iterator[None]:
    """Let the database refuse to change periodic tasks, as one does whose disk is full."""

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "last_run_at" in sql:
            raise OperationalError("disk full")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        yield


def dies_before_writing(machine: Machine) -> None:
    """Let *machine* send and confirm, and be gone before the admin's columns are written."""
    with no_updates():
        machine.tick_until_idle()


@on_each_database
def test_the_admin_shows_what_ran(dcb: DatabaseFleet) -> None:
    """As soon as it was sent: the time and the count."""
    dcb.add("ten")
    leader = dcb.leader()
    assert dcb.ran("ten") == (None, 0)
    for count in (1, 2, 3):
        (headers,) = dcb.after(leader, 10)
        assert (dues([headers]), headers["periodic_task_name"]) == ([10 * count], "ten")
        assert dcb.ran("ten") == (dcb.fleet.wall.now, count)


def test_what_is_written_is_no_edit(dcb: DatabaseFleet) -> None:
    """Or each run would have all beats read the whole schedule again."""
    from django_celery_beat.models import PeriodicTasks

    dcb.add("ten")
    leader = dcb.leader()
    before = (PeriodicTasks.last_change(), dcb.row("ten").date_changed)
    assert names(dcb.after(leader, 10)) == ["ten"]
    assert (PeriodicTasks.last_change(), dcb.row("ten").date_changed) == before


@on_each_database
def test_a_standby_neither_reads_nor_writes_the_schedule(dcb: DatabaseFleet) -> None:
    """Not at its start, not in a tick, not at its end, when the base would write once more."""
    dcb.fleet.schedule = {"other": {"task": "t.other", "schedule": 5.0}}
    dcb.add("ten")
    before = dcb.tables()
    dcb.fleet.wall.advance(60)
    with CaptureQueriesContext(connection) as queries, mock.patch("celery_leader.beat.mixin.STANDBY_WAIT", 0.01):
        standby = dcb.machine()
        assert standby.scheduler.tick() == 0
        standby.scheduler.close()
        standby.scheduler._finalize()
    assert queries.captured_queries == []
    assert dcb.tables() == before
    assert dcb.fleet.sent() == []


@on_each_database
def test_a_deposed_leader_writes_nothing_more(dcb: DatabaseFleet) -> None:
    """What it could not write while it led is older than what its successor wrote."""
    dcb.add("ten")
    old = dcb.leader()
    dcb.fleet.wall.advance(10)
    with no_updates():
        old.tick_until_idle()
    assert old.scheduler._dirty == {"ten"}
    new = dcb.leader()
    assert len(dcb.after(new, 10)) == 2
    before = dcb.tables()
    assert dcb.ran("ten") == (dcb.fleet.wall.now, 2)
    old.scheduler.sync()
    with mock.patch("celery_leader.beat.mixin.STANDBY_WAIT", 0.01):
        old.scheduler.tick()
    old.scheduler.close()
    old.scheduler._finalize()
    assert dcb.tables() == before


def test_what_could_not_be_written_is_written_later(dcb: DatabaseFleet) -> None:
    """A database that refuses a write stops no tick."""
    dcb.add("ten")
    leader = dcb.leader()
    with no_updates():
        assert names(dcb.after(leader, 10)) == ["ten"]
    assert dcb.ran("ten") == (None, 0)
    leader.tick_until_idle()
    assert dcb.ran("ten") == (dcb.fleet.wall.now, 1)


def test_a_run_that_was_never_written_is_not_run_again(dcb: DatabaseFleet) -> None:
    """The ledger knows it; the database, which does not, is told by the next leader."""
    dcb.add("ten")
    dcb.add("minute", crontab=crontab())
    first = dcb.leader()
    dcb.fleet.wall.advance(30)
    dies_before_writing(first)
    assert sorted(names(dcb.fleet.sent())) == ["minute", "ten"]
    assert dcb.ran("ten") == dcb.ran("minute") == (None, 0)
    ran_at = dcb.fleet.wall.now
    dcb.fleet.wall.advance(5)
    second = dcb.leader()
    assert dcb.fleet.sent() == []
    assert dcb.ran("ten") == dcb.ran("minute") == (ran_at, 1)
    assert dues(dcb.after(second, 5)) == [40]


def test_the_next_leader_goes_on_where_the_last_one_stopped(dcb: DatabaseFleet) -> None:
    """Entries that ran, and entries that wait for their first run."""
    dcb.add("ten")
    dcb.add("minute", crontab=crontab())
    first = dcb.leader()
    assert names(dcb.after(first, 25)) == ["ten"]
    second = dcb.leader()
    assert dcb.fleet.sent() == []
    assert names(dcb.after(second, 5)) == ["minute"]
    third = dcb.leader()
    assert dues(dcb.after(third, 5)) == [35]


def test_entries_of_the_settings_run_though_beats_start_more_often_than_they_are_due(dcb: DatabaseFleet) -> None:
    """The base writes them at each start, and counts the period of what never ran from then."""
    dcb.fleet.schedule = {"hour": {"task": "t.hour", "schedule": 3600.0, "args": (1,), "options": {"queue": "celery"}}}
    sent = []
    for _ in range(4):
        leader = dcb.leader()
        sent += dcb.after(leader, 1500)
    assert dues(sent) == [3600]


def test_an_edit_of_the_settings_reaches_the_database(dcb: DatabaseFleet) -> None:
    """With the next beat that starts, as it does without us."""
    dcb.fleet.schedule = {"e": {"task": "t.e", "schedule": 3600.0}}
    dcb.leader()
    dcb.fleet.wall.advance(1)
    dcb.fleet.schedule = {"e": {"task": "t.e", "schedule": 20.0}}
    leader = dcb.leader()
    assert dcb.row("e").interval.every == 20
    assert names(dcb.after(leader, 20)) == ["e"]


@on_each_database
def test_edits_take_effect_with_the_next_tick(dcb: DatabaseFleet) -> None:
    """New entries, other schedules, other arguments, disabled entries, entries that are gone."""
    from django_celery_beat.models import IntervalSchedule

    dcb.add("ten")
    leader = dcb.leader()
    assert leader.scheduler.max_interval == 5
    dcb.fleet.wall.advance(1)
    dcb.add("new")
    assert names(dcb.after(leader, 9)) == ["ten"]
    assert names(dcb.after(leader, 1)) == ["new"]
    slow, _ = IntervalSchedule.objects.get_or_create(every=30, period=IntervalSchedule.SECONDS)
    dcb.edit("ten", interval=slow)
    dcb.edit("new", enabled=False)
    assert dcb.after(leader, 28) == []
    assert names(dcb.after(leader, 1)) == ["ten"]
    dcb.edit("ten", queue="elsewhere")
    assert dcb.after(leader, 30) == []
    assert dcb.ran("ten")[1] == 3
    dcb.row("ten").delete()
    leader.tick_until_idle()
    assert dcb.after(leader, 60) == []


def test_an_edit_while_the_schedule_could_not_be_read_is_seen_later(dcb: DatabaseFleet) -> None:
    """The base takes a schedule that it failed to read for read."""
    dcb.add("ten")
    leader = dcb.leader()
    dcb.fleet.wall.advance(1)
    dcb.add("new")
    with mock.patch.object(leader.scheduler, "all_as_schedule", side_effect=OperationalError("gone")):
        assert leader.scheduler.tick() > 0
    assert sorted(names(dcb.after(leader, 10))) == ["new", "ten"]


def test_the_actions_of_the_admin(dcb: DatabaseFleet) -> None:
    """Disable and enable: they go past the model, and say so by the change marker only."""
    from django.contrib.auth.models import User

    User.objects.create_superuser("root", password="root")
    client = Client()
    assert client.login(username="root", password="root")
    pk = dcb.add("ten").pk
    leader = dcb.leader()

    def act(action: str) -> None:
        dcb.fleet.wall.advance(1)
        form = {"action": action, "_selected_action": [pk]}
        assert client.post("/admin/django_celery_beat/periodictask/", form).status_code == 302

    assert names(dcb.after(leader, 10)) == ["ten"]
    act("disable_tasks")
    assert dcb.after(leader, 30) == []
    assert dcb.ran("ten") == (None, 1)
    act("enable_tasks")
    assert names(dcb.after(leader, 1)) == ["ten"]
    assert dcb.ran("ten") == (dcb.fleet.wall.now, 2)


def test_the_admin_knows_our_scheduler_for_the_right_one(dcb: DatabaseFleet, settings: Any) -> None:
    """It warns of others; a short name it would not find."""
    from django_celery_beat.utils import is_database_scheduler

    assert is_database_scheduler("celery_leader.beat.scheduler:LeaderDatabaseScheduler")


def test_a_disabled_entry_that_never_ran_counts_from_when_it_was_enabled(dcb: DatabaseFleet) -> None:
    """As it does without us."""
    dcb.add("ten")
    leader = dcb.leader()
    dcb.fleet.wall.advance(5)
    dcb.edit("ten", enabled=False)
    assert dcb.after(leader, 100) == []
    dcb.edit("ten", enabled=True)
    assert dcb.after(leader, 9) == []
    assert names(dcb.after(leader, 1)) == ["ten"]


@on_each_database
def test_a_one_off_runs_once(dcb: DatabaseFleet) -> None:
    """Then the base disables it, whoever leads."""
    dcb.add("once", one_off=True)
    first = dcb.leader()
    assert names(dcb.after(first, 10)) == ["once"]
    second = dcb.leader()
    assert dcb.after(second, 30) == []
    assert not dcb.row("once").enabled


def test_a_one_off_whose_run_was_never_written_runs_once(dcb: DatabaseFleet) -> None:
    """The database says that it never ran."""
    dcb.add("once", one_off=True)
    first = dcb.leader()
    dcb.fleet.wall.advance(10)
    dies_before_writing(first)
    assert names(dcb.fleet.sent()) == ["once"]
    second = dcb.leader()
    assert dcb.after(second, 30) == []
    assert not dcb.row("once").enabled


@pytest.mark.parametrize("by", ["form", "action"])
def test_a_one_off_that_is_enabled_again_runs_again(dcb: DatabaseFleet, by: str) -> None:
    """By the admin's form, and by its action, which goes past the model."""
    from django_celery_beat.models import PeriodicTask, PeriodicTasks

    dcb.add("once", one_off=True)
    leader = dcb.leader()
    assert names(dcb.after(leader, 10)) == ["once"]
    assert dcb.after(leader, 30) == []
    dcb.fleet.wall.advance(100)
    if by == "form":
        dcb.edit("once", enabled=True)
    else:
        PeriodicTask.objects.filter(name="once").update(enabled=True)
        PeriodicTasks.update_changed()
    leader.tick_until_idle()
    assert names([*dcb.fleet.sent(), *dcb.after(leader, 10)]) == ["once"]
    assert dcb.after(leader, 30) == []


def test_an_expired_entry_is_disabled(dcb: DatabaseFleet) -> None:
    """By the leader, when it comes to it."""
    dcb.add("ten", expires=START + timedelta(seconds=15))
    leader = dcb.leader()
    assert names(dcb.after(leader, 10)) == ["ten"]
    assert dcb.after(leader, 10) == []
    assert not dcb.row("ten").enabled


@pytest.mark.parametrize("policy", ["latest", "skip", "all"])
def test_an_entry_with_a_start_time_begins_then(dcb: DatabaseFleet, policy: str) -> None:
    """An interval with one run, a crontab at its next time, whatever they would have done before."""
    dcb.fleet.conf["leader_beat_catch_up"] = policy
    start = START + timedelta(seconds=25)
    dcb.add("ten", start_time=start)
    dcb.add("minute", crontab=crontab(), start_time=start)
    leader = dcb.leader()
    assert dcb.after(leader, 24) == []
    sent = [*dcb.after(leader, 1), *dcb.after(leader, 5)]
    assert (names(sent), dues(sent)) == (["ten", "minute"], [25, 30])
    assert leader.scheduler.counts.missed == 0
    second = dcb.leader()
    assert dcb.fleet.sent() == []
    assert dues(dcb.after(second, 5)) == [35]


@pytest.mark.parametrize("policy", ["latest", "skip", "all"])
@pytest.mark.parametrize("seconds", [-7200, 20])
def test_a_clocked_entry_runs_once(dcb: DatabaseFleet, policy: str, seconds: float) -> None:
    """At its time, or at once if that has passed: there is no later run that could make up for it."""
    from django_celery_beat.models import ClockedSchedule

    dcb.fleet.conf["leader_beat_catch_up"] = policy
    clocked = ClockedSchedule.objects.create(clocked_time=START + timedelta(seconds=seconds))
    dcb.add("clocked", clocked=clocked, one_off=True)
    first = dcb.leader()
    sent = [*dcb.fleet.sent(), *dcb.after(first, 20)]
    assert names(sent) == ["clocked"]
    second = dcb.leader()
    assert dcb.after(second, 30) == []
    assert not dcb.row("clocked").enabled
    dcb.edit("clocked", enabled=True)
    second.tick_until_idle()
    assert names(dcb.fleet.sent()) == ["clocked"]
    assert sent[0]["id"] != dcb.fleet.ledger._claims["clocked"].task_id


@on_each_database
def test_a_crontab_that_is_left_out_for_hours_keeps_its_unsent_claim(dcb: DatabaseFleet) -> None:
    """The base reads only what is due within two hours; what was claimed then is still to be sent."""
    dcb.add("nine", crontab=crontab(hour="9", minute="1"))
    first = dcb.leader()
    dcb.fleet.wall.advance(30)
    with broken_broker(first):
        first.scheduler.tick()
    claimed = dcb.fleet.ledger._claims["nine"]
    assert not claimed.sent
    dcb.fleet.wall.advance(6 * 3600)
    second = dcb.leader()
    assert "nine" not in second.scheduler.schedule
    (headers,) = dcb.fleet.sent()
    assert headers["id"] == claimed.task_id


def test_a_crontab_that_is_left_out_for_weeks_is_not_forgotten(dcb: DatabaseFleet) -> None:
    """Though it is not in the schedule whenever somebody begins to lead; an entry that was deleted is."""
    dcb.add("monthly", crontab=crontab(hour="9", minute="1", day_of_month="23"))
    dcb.add("gone")
    first = dcb.leader()
    dcb.fleet.wall.advance(30)
    dies_before_writing(first)
    assert sorted(names(dcb.fleet.sent())) == ["gone", "monthly"]
    dcb.row("gone").delete()
    dcb.fleet.wall.now = START + timedelta(days=20, hours=6)
    second = dcb.leader()
    assert dcb.fleet.ledger._claims.keys() == {"monthly"}
    dcb.fleet.wall.now = START + timedelta(days=20, hours=22)
    dcb.edit("monthly", description="comes back into the schedule")
    assert dcb.after(second, 0) == []


def test_an_entrys_headers_choose_how_it_catches_up(dcb: DatabaseFleet) -> None:
    """They are all that the admin lets one edit freely, and do not travel."""
    dcb.add("each", headers='{"leader_catch_up": "all", "mine": 1}')
    dcb.add("one")
    first = dcb.leader()
    first.resign()
    dcb.fleet.wall.advance(35)
    second = dcb.leader()
    sent = dcb.fleet.sent()
    each = [headers for headers in sent if headers["task"] == "t.each"]
    assert dues(each) == [10, 20, 30]
    assert names(sent).count("one") == 1
    assert [headers["mine"] for headers in each] == [1, 1, 1]
    assert all("leader_catch_up" not in headers for headers in each)
    assert dues(dcb.after(second, 5)) == [40]
    assert dcb.ran("each")[1] == 4


def test_crontabs_keep_their_own_time_zone(dcb: DatabaseFleet) -> None:
    """Whatever zones Celery and Django live in."""
    dcb.fleet.conf["timezone"] = "Australia/Sydney"
    dcb.add("york", crontab=crontab(hour="4", minute="5", timezone="America/New_York"))
    dcb.add("quarter", crontab=crontab(minute="*/15", timezone="America/New_York"))
    leader = dcb.leader()
    dcb.fleet.wall.now = datetime(2026, 11, 23, 9, 5, 2, tzinfo=timezone.utc)
    (headers,) = dcb.after(leader, 0)
    assert (headers["task"], headers["leader_due_at"]) == ("t.york", "2026-11-23T09:05:00+00:00")
    second = dcb.leader()
    dcb.fleet.wall.now = datetime(2026, 11, 23, 9, 15, 2, tzinfo=timezone.utc)
    (headers,) = dcb.after(second, 0)
    assert (headers["task"], headers["leader_due_at"]) == ("t.quarter", "2026-11-23T09:15:00+00:00")


@on_postgres
def test_a_connection_that_broke_ends_no_beat(dcb: DatabaseFleet, postgres_server: PostgresServer) -> None:
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
    assert names(dcb.after(leader, 10)) == ["ten"]
    cut()
    dcb.fleet.wall.advance(10)
    for _ in range(3):
        leader.scheduler.tick()
    assert names(dcb.fleet.sent()) == ["ten"]
    assert dcb.ran("ten") == (dcb.fleet.wall.now, 2)


def test_a_takeover_without_a_schedule_waits_for_it(dcb: DatabaseFleet) -> None:
    """Who leads and can't read the schedule does not end, and begins as soon as it can."""
    dcb.add("ten")
    leader = dcb.machine()
    leader.lead()
    with (
        mock.patch.object(leader.scheduler, "all_as_schedule", side_effect=OperationalError("gone")),
        mock.patch("celery_leader.beat.mixin.STANDBY_WAIT", 0.01),
    ):
        assert leader.scheduler.tick() == 0
    leader.tick_until_idle()
    assert names(dcb.after(leader, 10)) == ["ten"]
