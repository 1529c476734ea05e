"""Entries of every kind in django-celery-beat's schedule: they do what they do without us, whoever leads."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tests.beat.bases.conftest import DatabaseMachines, crontab, dies_before_writing, names, on_each_database
from tests.beat.machines import START, dues
from tests.beat.test_trouble import broken_broker

pytestmark = pytest.mark.bases


def test_a_disabled_entry_that_never_ran_counts_from_when_it_was_enabled(dcb: DatabaseMachines) -> None:
    """As it does without us."""
    dcb.add("ten")
    leader = dcb.leader()
    dcb.machines.wall.advance(5)
    dcb.edit("ten", enabled=False)
    assert dcb.machines.after(leader, 100) == []
    dcb.edit("ten", enabled=True)
    assert dcb.machines.after(leader, 9) == []
    assert names(dcb.machines.after(leader, 1)) == ["ten"]


@on_each_database
def test_a_one_off_runs_once(dcb: DatabaseMachines) -> None:
    """Then the base disables it, whoever leads."""
    dcb.add("once", one_off=True)
    first = dcb.leader()
    assert names(dcb.machines.after(first, 10)) == ["once"]
    second = dcb.leader()
    assert dcb.machines.after(second, 30) == []
    assert not dcb.row("once").enabled


def test_a_one_off_whose_run_was_never_written_runs_once(dcb: DatabaseMachines) -> None:
    """The database says that it never ran."""
    dcb.add("once", one_off=True)
    first = dcb.leader()
    dcb.machines.wall.advance(10)
    dies_before_writing(first)
    assert names(dcb.machines.sent()) == ["once"]
    second = dcb.leader()
    assert dcb.machines.after(second, 30) == []
    assert not dcb.row("once").enabled


@pytest.mark.parametrize("by", ["form", "action"])
def test_a_one_off_that_is_enabled_again_runs_again(dcb: DatabaseMachines, by: str) -> None:
    """By the admin's form, and by its action, which goes past the model."""
    from django_celery_beat.models import PeriodicTask, PeriodicTasks

    dcb.add("once", one_off=True)
    leader = dcb.leader()
    assert names(dcb.machines.after(leader, 10)) == ["once"]
    assert dcb.machines.after(leader, 30) == []
    dcb.machines.wall.advance(100)
    if by == "form":
        dcb.edit("once", enabled=True)
    else:
        PeriodicTask.objects.filter(name="once").update(enabled=True)
        PeriodicTasks.update_changed()
    leader.tick_until_idle()
    assert names([*dcb.machines.sent(), *dcb.machines.after(leader, 10)]) == ["once"]
    assert dcb.machines.after(leader, 30) == []


def test_an_expired_entry_is_disabled(dcb: DatabaseMachines) -> None:
    """By the leader, when it comes to it."""
    dcb.add("ten", expires=START + timedelta(seconds=15))
    leader = dcb.leader()
    assert names(dcb.machines.after(leader, 10)) == ["ten"]
    assert dcb.machines.after(leader, 10) == []
    assert not dcb.row("ten").enabled


@pytest.mark.parametrize("policy", ["latest", "skip", "all"])
def test_an_entry_with_a_start_time_begins_then(dcb: DatabaseMachines, policy: str) -> None:
    """An interval with one run, a crontab at its next time, whatever they would have done before."""
    dcb.machines.conf["leader_beat_catch_up"] = policy
    start = START + timedelta(seconds=25)
    dcb.add("ten", start_time=start)
    dcb.add("minute", crontab=crontab(), start_time=start)
    leader = dcb.leader()
    assert dcb.machines.after(leader, 24) == []
    sent = [*dcb.machines.after(leader, 1), *dcb.machines.after(leader, 5)]
    assert (names(sent), dues(sent)) == (["ten", "minute"], [25, 30])
    assert leader.scheduler.counts.missed == 0
    second = dcb.leader()
    assert dcb.machines.sent() == []
    assert dues(dcb.machines.after(second, 5)) == [35]


@pytest.mark.parametrize("policy", ["latest", "skip", "all"])
@pytest.mark.parametrize("seconds", [-7200, 20])
def test_a_clocked_entry_runs_once(dcb: DatabaseMachines, policy: str, seconds: float) -> None:
    """At its time, or at once if that has passed: there is no later run that could make up for it."""
    from django_celery_beat.models import ClockedSchedule

    dcb.machines.conf["leader_beat_catch_up"] = policy
    clocked = ClockedSchedule.objects.create(clocked_time=START + timedelta(seconds=seconds))
    dcb.add("clocked", clocked=clocked, one_off=True)
    first = dcb.leader()
    sent = [*dcb.machines.sent(), *dcb.machines.after(first, 20)]
    assert names(sent) == ["clocked"]
    second = dcb.leader()
    assert dcb.machines.after(second, 30) == []
    assert not dcb.row("clocked").enabled
    dcb.edit("clocked", enabled=True)
    second.tick_until_idle()
    assert names(dcb.machines.sent()) == ["clocked"]
    assert sent[0]["id"] != dcb.machines.ledger._claims["clocked"].task_id


@on_each_database
def test_a_crontab_that_is_left_out_for_hours_keeps_its_unsent_claim(dcb: DatabaseMachines) -> None:
    """The base reads only what is due within two hours; what was claimed then is still to be sent."""
    dcb.add("nine", crontab=crontab(hour="9", minute="1"))
    first = dcb.leader()
    dcb.machines.wall.advance(30)
    with broken_broker(first):
        first.scheduler.tick()
    claimed = dcb.machines.ledger._claims["nine"]
    assert not claimed.sent
    dcb.machines.wall.advance(6 * 3600)
    second = dcb.leader()
    assert "nine" not in second.scheduler.schedule
    (headers,) = dcb.machines.sent()
    assert headers["id"] == claimed.task_id


def test_a_crontab_that_is_left_out_for_weeks_is_not_forgotten(dcb: DatabaseMachines) -> None:
    """Though it is not in the schedule whenever somebody begins to lead; an entry that was deleted is."""
    dcb.add("monthly", crontab=crontab(hour="9", minute="1", day_of_month="23"))
    dcb.add("gone")
    first = dcb.leader()
    dcb.machines.wall.advance(30)
    dies_before_writing(first)
    assert sorted(names(dcb.machines.sent())) == ["gone", "monthly"]
    dcb.row("gone").delete()
    dcb.machines.wall.now = START + timedelta(days=20, hours=6)
    second = dcb.leader()
    assert dcb.machines.ledger._claims.keys() == {"monthly"}
    dcb.machines.wall.now = START + timedelta(days=20, hours=22)
    dcb.edit("monthly", description="comes back into the schedule")
    assert dcb.machines.after(second, 0) == []


def test_an_entrys_headers_choose_how_it_catches_up(dcb: DatabaseMachines) -> None:
    """They are all that the admin lets one edit freely, and do not travel."""
    dcb.add("each", headers='{"leader_catch_up": "all", "mine": 1}')
    dcb.add("one")
    first = dcb.leader()
    first.resign()
    dcb.machines.wall.advance(35)
    second = dcb.leader()
    sent = dcb.machines.sent()
    each = [headers for headers in sent if headers["task"] == "t.each"]
    assert dues(each) == [10, 20, 30]
    assert names(sent).count("one") == 1
    assert [headers["mine"] for headers in each] == [1, 1, 1]
    assert all("leader_catch_up" not in headers for headers in each)
    assert dues(dcb.machines.after(second, 5)) == [40]
    assert dcb.ran("each")[1] == 4


def test_crontabs_keep_their_own_time_zone(dcb: DatabaseMachines) -> None:
    """Whatever zones Celery and Django live in."""
    dcb.machines.conf["timezone"] = "Australia/Sydney"
    dcb.add("york", crontab=crontab(hour="4", minute="5", timezone="America/New_York"))
    dcb.add("quarter", crontab=crontab(minute="*/15", timezone="America/New_York"))
    leader = dcb.leader()
    dcb.machines.wall.now = datetime(2026, 11, 23, 9, 5, 2, tzinfo=timezone.utc)
    (headers,) = dcb.machines.after(leader, 0)
    assert (headers["task"], headers["leader_due_at"]) == ("t.york", "2026-11-23T09:05:00+00:00")
    second = dcb.leader()
    dcb.machines.wall.now = datetime(2026, 11, 23, 9, 15, 2, tzinfo=timezone.utc)
    (headers,) = dcb.machines.after(second, 0)
    assert (headers["task"], headers["leader_due_at"]) == ("t.quarter", "2026-11-23T09:15:00+00:00")
