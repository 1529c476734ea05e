"""RedBeat's schedule in a real Redis, led by our lease instead of its own lock."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
import redis
from celery.signals import beat_init

from tests.beat.machines import EACH_MINUTE, EVERY_TEN, START, Machine, Machines, dues
from tests.beat.test_trouble import broken_broker
from tests.servers import RedisServer
from tests.waiting import eventually

pytestmark = [pytest.mark.bases, pytest.mark.redis]


class RedBeatMachines:
    """Machines whose schedule is in one Redis."""

    def __init__(self, machines: Machines, url: str) -> None:
        """Give *machines* that schedule; failed calls are not tried again for long."""
        self.machines = machines
        self.client = redis.Redis.from_url(url, decode_responses=True)
        machines.conf["redbeat_redis_url"] = url
        machines.conf["redbeat_redis_options"] = {"socket_timeout": 1, "retry": redis.retry.Retry(_no_backoff(), 0)}
        machines.conf["beat_max_loop_interval"] = 5
        machines.conf["result_expires"] = None  # or there is an entry of Celery's own

    def machine(self) -> Machine:
        """Start one more."""
        machine = self.machines.add("redbeat.RedBeatScheduler")
        machine.scheduler.app.set_current()  # whose clock schedules from Redis look at
        return machine

    def leader(self) -> Machine:
        """Start one more, which leads instead of whoever led."""
        return self.machines.take_over(self.machine())

    def entry(self, name: str) -> Any:
        """Return an entry as it is in Redis."""
        from redbeat import RedBeatSchedulerEntry

        app = self.machines.started[0].scheduler.app
        return RedBeatSchedulerEntry.from_key(RedBeatSchedulerEntry.generate_key(app, name), app=app)

    def everything(self) -> dict[str, Any]:
        """Return all that RedBeat keeps."""
        read = {"hash": self.client.hgetall, "set": self.client.smembers, "string": self.client.get,
                "zset": lambda key: self.client.zrange(key, 0, -1, withscores=True)}  # fmt: skip
        return {key: read[self.client.type(key)](key) for key in self.client.scan_iter()}


def _no_backoff() -> Any:
    return redis.backoff.NoBackoff()


@pytest.fixture
def redbeat(machines: Machines, redis_server: RedisServer) -> Iterator[RedBeatMachines]:
    """Machines with RedBeat on an empty Redis."""
    made = RedBeatMachines(machines, redis_server.url.removesuffix("0") + "9")
    made.client.flushdb()
    yield made
    made.client.close()


def test_due_entries_are_sent_once_over_a_handover(redbeat: RedBeatMachines) -> None:
    """RedBeat's store and the ledger agree on when they ran, and how often."""
    redbeat.machines.schedule = {**EVERY_TEN, **EACH_MINUTE}
    first = redbeat.leader()
    assert redbeat.machines.sent() == []
    assert dues(redbeat.machines.after(first, 10)) == [10]
    second = redbeat.leader()
    assert redbeat.machines.sent() == []
    assert dues(redbeat.machines.after(second, 10)) == [20]
    assert sorted(each["task"] for each in redbeat.machines.after(second, 10)) == ["t.minute", "t.ten"]
    claims = redbeat.machines.ledger._claims
    for name, count in (("ten", 3), ("minute", 1)):
        entry = redbeat.entry(name)
        assert (entry.last_run_at, entry.total_run_count) == (redbeat.machines.wall.now, count)
        assert (claims[name].claimed_at, claims[name].run_count) == (redbeat.machines.wall.now, count)


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("moment", ["before send", "before confirm", "before note"])
def test_a_leader_that_dies_on_a_tick_neither_loses_nor_doubles_it(
    redbeat: RedBeatMachines, moment: str, has_run: bool
) -> None:
    """RedBeat's own note comes last; an entry that never ran has none, and would be due at once again."""
    from celery.schedules import schedule
    from redbeat import RedBeatSchedulerEntry

    first = redbeat.leader()
    entry = RedBeatSchedulerEntry("ten", "t.ten", schedule(10), app=first.scheduler.app)
    entry.last_run_at = START - timedelta(seconds=10) if has_run else None
    entry.save()
    place = {
        "before send": (first.scheduler.app, "send_task"),
        "before confirm": (redbeat.machines.ledger, "confirm"),
        "before note": (RedBeatSchedulerEntry, "next"),
    }[moment]
    with mock.patch.object(*place, side_effect=SystemExit), pytest.raises(SystemExit):
        first.scheduler.tick()
    claimed = redbeat.machines.ledger._claims["ten"]
    assert (claimed.tick.due_at, claimed.run_count) == (START, 1)
    sent = redbeat.machines.sent()
    redbeat.machines.wall.advance(3)
    second = redbeat.leader()
    sent += redbeat.machines.sent()
    assert {each["id"] for each in sent} == {claimed.task_id}
    assert len(sent) == (2 if moment == "before confirm" else 1)  # sent again with its id, not knowing better
    assert redbeat.entry("ten").last_run_at == claimed.claimed_at
    (headers,) = redbeat.machines.after(second, 7)
    assert dues([headers]) == [10]
    assert redbeat.entry("ten").total_run_count == 2


def test_a_standby_touches_no_schedule(redbeat: RedBeatMachines) -> None:
    """Its own may be another: of a newer release, or of an older one."""
    redbeat.machines.schedule = EVERY_TEN
    redbeat.leader()
    before = redbeat.everything()
    redbeat.machines.schedule = EACH_MINUTE
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        standby = redbeat.machine()
        standby.scheduler.tick()
        standby.scheduler.close()
    assert before
    assert redbeat.everything() == before


def test_its_own_lock_is_off(redbeat: RedBeatMachines) -> None:
    """Whatever the settings say: it would have standbys block at their start, and a beat end that lost it."""
    redbeat.machines.conf["redbeat_lock_key"] = "redbeat:lock"
    leader = redbeat.leader()
    answers = beat_init.send(sender=mock.Mock(scheduler=leader.scheduler))
    assert [answer for _, answer in answers if answer is not None] == []
    leader.scheduler.tick()
    assert "lock" not in leader.scheduler.info
    assert not [key for key in redbeat.client.scan_iter() if "lock" in key]


def test_a_redis_that_is_away_ends_no_beat(redbeat: RedBeatMachines) -> None:
    """Neither at a takeover nor in the midst of a term; when it is back, what became due is sent once."""
    with RedisServer() as server:
        theirs = RedBeatMachines(redbeat.machines, server.url)
        theirs.machines.schedule = EVERY_TEN
        server.kill()
        leader = theirs.machine()
        leader.lead()
        with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
            assert leader.scheduler.tick() == 0
            server.start()
            eventually(lambda: leader.scheduler.tick() > 0)
        server.kill()
        theirs.machines.wall.advance(10)
        assert leader.scheduler.tick() > 0
        assert theirs.machines.sent() == []
        server.start()
        eventually(lambda: leader.scheduler.tick() > 0)
        leader.tick_until_idle()
        assert dues(theirs.machines.sent()) == [10]
        theirs.client.close()


def test_a_broker_that_is_away_delays_ticks_and_loses_none(redbeat: RedBeatMachines) -> None:
    """RedBeat alone would have noted the run, and sent nothing."""
    redbeat.machines.schedule = EVERY_TEN
    leader = redbeat.leader()
    redbeat.machines.wall.advance(10)
    with broken_broker(leader):
        leader.scheduler.tick()
        redbeat.machines.wall.advance(10)
        leader.scheduler.tick()
    assert dues(redbeat.machines.after(leader, 0)) == [10, 20]


def test_missed_runs_are_made_up_for_at_once(redbeat: RedBeatMachines) -> None:
    """With the policy "all"; RedBeat counts from when a run was sent, and would never catch up."""
    redbeat.machines.schedule = {"ten": {**EVERY_TEN["ten"], "options": {"leader_catch_up": "all"}}}
    first = redbeat.leader()
    first.resign()
    redbeat.machines.wall.advance(35)
    second = redbeat.leader()
    assert dues(redbeat.machines.after(second, 0)) == [10, 20, 30]
    assert dues(redbeat.machines.after(second, 5)) == [40]


def test_entries_come_and_go_while_somebody_leads(redbeat: RedBeatMachines) -> None:
    """By RedBeat's own ways; claims of those that went long ago go, too."""
    from celery.schedules import schedule
    from redbeat import RedBeatSchedulerEntry

    leader = redbeat.leader()
    app = leader.scheduler.app
    for name in ("new", "kept"):
        RedBeatSchedulerEntry(name, f"t.{name}", schedule(20), last_run_at=START, app=app).save()
    assert redbeat.machines.after(leader, 19) == []
    assert sorted(each["task"] for each in redbeat.machines.after(leader, 1)) == ["t.kept", "t.new"]
    redbeat.entry("new").delete()
    kept = redbeat.entry("kept")
    kept.enabled = False
    kept.save()
    assert redbeat.machines.after(leader, 60) == []
    kept.enabled = True
    kept.save()
    assert redbeat.machines.ledger._claims.keys() == {"new", "kept"}
    redbeat.machines.wall.now += timedelta(days=8)
    redbeat.leader()
    assert redbeat.machines.ledger._claims.keys() == {"kept"}
    assert [each["task"] for each in redbeat.machines.sent()] == ["t.kept"]


def test_a_message_is_told_of_once(redbeat: RedBeatMachines, caplog: pytest.LogCaptureFixture) -> None:
    """By RedBeat, with the id of its message; and when it is sent again."""
    caplog.set_level(logging.DEBUG, "celery.beat")
    redbeat.machines.schedule = EVERY_TEN
    leader = redbeat.leader()

    def told() -> list[str]:
        found = [each.getMessage().splitlines()[0] for each in caplog.records if each.name == "celery.beat"]
        caplog.clear()
        return [line for line in found if "ten" in line and "Stored" not in line]

    told()
    (headers,) = redbeat.machines.after(leader, 10)
    assert told() == ["Scheduler: Sending due task ten (t.ten)", f"Scheduler: t.ten sent. id->{headers['id']}"]
    redbeat.machines.wall.advance(10)
    with broken_broker(leader):
        leader.scheduler.tick()
    sending, failed = told()
    assert sending == "Scheduler: Sending due task ten (t.ten)"
    assert failed.startswith("Scheduler: Message Error: Couldn't apply scheduled task ten: [Errno 111]")
    assert len(redbeat.machines.after(leader, 0)) == 1
    assert told() == ["Scheduler: Sending due task ten (t.ten)"]
