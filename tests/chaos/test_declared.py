"""Guarded tasks, declared in every form, with real workers."""

from __future__ import annotations

import pytest
import redis

from tests.chaos.fleet import Fleet
from tests.tasks.project.forms import FORMS
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.redis, pytest.mark.timeout(120)]

ALL = {*FORMS, "found"}


def test_every_form_is_guarded_in_a_worker(fleet: Fleet, raw: redis.Redis) -> None:
    """A follower that gets its message sends it on; the leader runs it, and acknowledges it when it has ended."""
    fleet.conf |= {"beat_schedule": {}, "chaos_forms": True}
    fleet.visibility = 600
    hold = fleet.directory / "hold"
    hold.touch()
    fleet.start("follower", "-c", "2", "--without-leader")
    for form in ALL:
        fleet.app.send_task(form, queue="celery")
    eventually(lambda: raw.llen("celery-leader.default") == len(ALL), timeout=40)
    assert fleet.evidence().of("form") == []
    fleet.start("leader", "-P", "threads", "-c", str(len(ALL)))
    eventually(lambda: {line["name"] for line in fleet.evidence().of("form")} == ALL, timeout=40)
    assert raw.hlen("unacked") == len(ALL)
    hold.unlink()
    eventually(lambda: raw.hlen("unacked") == 0, timeout=20)
    ran = fleet.evidence().of("form")
    assert len(ran) == len(ALL)
    assert all(line["leads"] for line in ran)
