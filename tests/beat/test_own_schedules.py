"""Schedules of a project's own, which have no more than Celery asks for."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import celery
import pytest
from celery.schedules import BaseSchedule, crontab

from tests.beat.machines import Machines, dues


class EveryOther(BaseSchedule):
    """A schedule of somebody's own, which has all that Celery asks for."""

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:  # type: ignore[override]
        left = (last_run_at + timedelta(seconds=20) - self.now()).total_seconds()
        return (True, 20.0) if left <= 0 else (False, left)


@pytest.mark.parametrize("policy", ["latest", "skip", "all"])
def test_a_schedule_needs_no_more_than_is_due(machines: Machines, policy: str) -> None:
    """Nothing tells since when it has been due: its runs are named by when they were found due. None comes twice."""
    machines.schedule = {"e": {"task": "t.e", "schedule": EveryOther(), "options": {"leader_catch_up": policy}}}
    leader = machines.leader()
    assert [dues(machines.after(leader)) for _ in range(4)] == [[], [20], [], [40]]
    leader = machines.leader()
    assert machines.sent() == []
    assert [dues(machines.after(leader)) for _ in range(2)] == [[], [60]]


NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize("takes_over", [False, True])
def test_a_crontab_runs_at_its_own_hour(machines: Machines, takes_over: bool) -> None:
    """Celery before 5.7 reads it off the clock that the crontab was given, later ones off the app's time zone."""
    eight = crontab(minute=0, hour=8, nowfun=lambda: machines.wall.now.astimezone(NEW_YORK))
    machines.schedule = {"eight": {"task": "t.eight", "schedule": eight}}
    hour = datetime(2026, 11, 24, 8, tzinfo=NEW_YORK if celery.VERSION < (5, 7) else ZoneInfo("UTC"))
    machines.wall.now = hour - timedelta(hours=23, minutes=30)
    leader = machines.leader()
    seen = []
    for _ in range(48):
        if takes_over:
            leader = machines.leader()
        seen += machines.after(leader, 3600)
    found = [datetime.fromisoformat(each["leader_due_at"]) for each in seen]
    assert found == [hour, hour + timedelta(days=1)]
