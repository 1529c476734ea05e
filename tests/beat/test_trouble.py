"""The beat when something fails: an entry, a message, the broker, the ledger."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from celery.beat import BeatLazyFunc, Scheduler
from celery.schedules import BaseSchedule
from kombu.exceptions import OperationalError

from celery_leader.beat import publisher
from celery_leader.beat.claims import Claims
from celery_leader.exceptions import LeadershipLost, RecordNotFound, StoreUnavailable
from celery_leader.ledger import Claim
from tests.beat.machines import EACH_MINUTE, EVERY_TEN, Machine, Machines, dues
from tests.servers import free_port
from tests.waiting import eventually


def test_one_entry_that_fails_stops_no_other(machines: Machines) -> None:
    """Whether its schedule, its options or its message is at fault."""

    class Broken(BaseSchedule):
        def is_due(self, last_run_at: Any) -> tuple[bool, float]:
            raise ValueError("a rule that divides by nothing")

    def refuse() -> None:
        raise ConnectionError("an argument that asks somebody who is away")

    machines.schedule = {
        **EVERY_TEN,
        "schedule": {"task": "t.bad", "schedule": Broken()},
        "options": {"task": "t.odd", "schedule": 10.0, "options": {"leader_catch_up_window": float("inf")}},
        "arguments": {"task": "t.bad", "schedule": 10.0, "args": (BeatLazyFunc(refuse),)},
    }
    leader = machines.add()
    for _ in range(3):
        leader.lead()
        leader.tick_until_idle()
        machines.wall.advance(10)
    assert Counter(each["task"] for each in machines.sent()) == {"t.ten": 2, "t.odd": 2}


def test_a_message_that_the_broker_refuses_stops_no_other_entry(machines: Machines) -> None:
    """It stays claimed, and is tried again; the others go on."""
    machines.schedule = {**EVERY_TEN, "refused": {"task": "t.refused", "schedule": 10.0}}
    leader = machines.add()
    send_task = leader.scheduler.app.send_task

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "t.refused":
            raise OperationalError("WRONGTYPE")
        return send_task(name, *args, **kwargs)

    with mock.patch.object(leader.scheduler.app, "send_task", refuse):
        for _ in range(4):
            leader.lead()
            leader.tick_until_idle()
            machines.wall.advance(10)
    assert [each["task"] for each in machines.sent()] == ["t.ten"] * 3
    assert not machines.ledger._claims["refused"].sent


def test_a_message_that_can_never_be_sent_holds_up_nothing(machines: Machines) -> None:
    """It is given up, as Celery's own beat does, and the others go on."""
    machines.schedule = {"bad": {"task": "t.bad", "schedule": 10.0, "args": (object(),)}, **EVERY_TEN}
    leader = machines.leader()
    machines.wall.advance(10)
    leader.tick_until_idle()
    assert [each["task"] for each in machines.sent()] == ["t.ten"]
    assert machines.ledger._claims["bad"].sent


def test_a_broker_that_is_away_delays_ticks_and_loses_none(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    """The tick stays claimed, nothing newer takes its place, and it is sent with its id. Two lines tell of it."""
    caplog.set_level(logging.INFO)
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    machines.wall.advance(10)
    with broken_broker(leader):
        leader.scheduler.tick()
        claimed = machines.ledger._claims["ten"]
        assert not claimed.sent
        machines.wall.advance(10)
        assert leader.scheduler.tick() > 0
        assert machines.ledger._claims["ten"] == claimed
    machines.wall.advance(1)  # in which it was not looked at again
    leader.tick_until_idle()
    messages = machines.sent()
    assert messages[0]["id"] == claimed.task_id
    assert dues(messages) == [10, 20]
    told = [each.getMessage() for each in caplog.records if each.name == publisher.__name__]
    refused, back = (text for text in told if "Sending due task" not in text)
    assert refused.startswith("ten, due at 2026-11-23 09:00:40+00:00, stays claimed, the broker does not take it: ")
    assert back.startswith("The broker takes messages again after ")


def test_a_broker_s_absence_is_an_error_once_a_minute(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For how long, and what follows; one line at its beginning would be silence for the rest of the night."""
    machines.schedule = EVERY_TEN
    leader = machines.add()
    now = 1000.0
    monkeypatch.setattr(leader.scheduler, "monotonic", lambda: now)
    leader.lead()
    leader.tick_until_idle()
    machines.wall.advance(10)
    with broken_broker(leader):
        for _ in range(7):
            leader.scheduler.tick()
            now += 20
    errors = [each for each in caplog.records if each.name == publisher.__name__ and each.levelno == logging.ERROR]
    told = [each.getMessage() for each in errors]
    assert len(told) == 3
    assert told[2].startswith("The broker has taken no message for 2 min, so periodic tasks are NOT sent")
    assert caplog.text.count("Message Error") == 1  # Celery's traceback, of the first


def test_each_term_tells_of_the_broker_s_absence(machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
    """Another may have led in between, and the broker been back."""
    machines.schedule = EVERY_TEN
    leader = machines.add()
    for outages in (1, 2):
        leader.lead()
        leader.tick_until_idle()
        machines.wall.advance(10)
        with broken_broker(leader):
            leader.scheduler.tick()
        told = [each for each in caplog.records if each.name == publisher.__name__ and each.levelno == logging.ERROR]
        assert len(told) == outages
        leader.resign()
        other = machines.add()
        other.lead()
        other.tick_until_idle()
        other.resign()


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_can_not_be_reached_holds_nobody_up(machines: Machines, scheme: str) -> None:
    """The stand-in for a broken broker fails the way that real ones do, and Celery would wait for them for minutes."""
    machines.schedule = EVERY_TEN
    leader = machines.add(broker=f"{scheme}://127.0.0.1:{free_port()}")
    leader.lead()
    leader.tick_until_idle()
    machines.wall.advance(10)
    begun = time.monotonic()
    leader.scheduler.tick()
    assert time.monotonic() - begun < 5
    assert not machines.ledger._claims["ten"].sent
    assert leader.scheduler.counts.claimed == 1
    assert leader.scheduler.counts.sent == 0


def test_a_silent_store_does_not_stop_a_beat_that_trusts_itself(machines: Machines) -> None:
    """It sends, and writes its claims when the store answers."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    silence = mock.Mock(side_effect=StoreUnavailable("no answer"))
    with mock.patch.multiple(machines.ledger, claim=silence, confirm=silence, restore=silence):
        machines.wall.advance(10)
        leader.tick_until_idle()
        assert dues(machines.sent()) == [10]
    with mock.patch("celery_leader.beat.claims._ASK_AGAIN", 0):
        eventually(lambda: leader.scheduler.tick() and machines.ledger._claims["ten"].run_count)
    claim = machines.ledger._claims["ten"]
    assert (claim.run_count, claim.sent) == (1, True)


def test_a_beat_that_ends_asks_a_silent_store_once_more(machines: Machines) -> None:
    """However lately it did not answer: what is not written then the next leader can't know."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    silence = mock.Mock(side_effect=StoreUnavailable("no answer"))
    machines.wall.advance(10)
    with mock.patch.multiple(machines.ledger, claim=silence, confirm=silence, restore=silence):
        leader.tick_until_idle()
    assert dues(machines.sent()) == [10]
    assert machines.ledger._claims["ten"].run_count == 0
    leader.scheduler.close()
    assert machines.ledger._claims["ten"].run_count == 1
    assert machines.ledger._claims["ten"].sent


def test_a_lease_is_kept_for_a_store_that_was_silent_a_moment_ago(machines: Machines) -> None:
    """And no longer for one that stays away: it could not be given back there anyway."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    assert not leader.scheduler.is_busy
    outbox = leader.scheduler._leading.outbox
    assert outbox
    silence = mock.Mock(side_effect=StoreUnavailable("no answer"))
    machines.wall.advance(10)
    with mock.patch.multiple(machines.ledger, claim=silence, confirm=silence, restore=silence):
        leader.tick_until_idle()
    assert leader.scheduler.is_busy
    for later, is_busy in ((2.5, True), (3.5, False)):
        with mock.patch.object(outbox.claims, "_now", return_value=time.monotonic() + later):
            assert leader.scheduler.is_busy is is_busy
    with mock.patch.object(outbox.claims, "_now", return_value=time.monotonic() + 1.5):
        leader.scheduler.tick()
        assert not leader.scheduler.is_busy
    assert machines.ledger._claims["ten"].sent


def test_a_ledger_that_lost_its_data_gets_it_back(machines: Machines) -> None:
    """From the leader that still knows."""
    machines.schedule = {**EVERY_TEN, "hour": {"task": "t.hour", "schedule": 3600.0}}
    leader = machines.leader()
    before = dict(machines.ledger._claims)
    machines.ledger.clear()
    machines.wall.advance(10)
    leader.tick_until_idle()
    assert dues(machines.sent()) == [10]
    assert machines.ledger._claims["hour"] == before["hour"]


def test_a_ledger_that_lost_its_data_is_noticed_without_a_tick(machines: Machines) -> None:
    """By a look each lease, so that an entry that is due once a day is not forgotten."""
    machines.schedule = {"hour": {"task": "t.hour", "schedule": 3600.0}}
    leader = machines.leader()
    machines.ledger.clear()
    leader.scheduler.tick()
    assert "hour" not in machines.ledger._claims  # no lease has passed since the last look
    later = time.monotonic() + leader.scheduler._settings.lease_duration
    with mock.patch.object(leader.scheduler, "monotonic", return_value=later):
        leader.scheduler.tick()
    assert "hour" in machines.ledger._claims


def test_a_ledger_that_loses_its_data_twice_stops_no_beat(machines: Machines) -> None:
    """Neither between writing back and the claim, nor for longer."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    machines.wall.advance(10)
    gone = mock.Mock(side_effect=RecordNotFound("lost again"))
    with mock.patch.multiple(machines.ledger, claim=gone, confirm=gone):
        leader.scheduler.tick()
    assert dues(machines.sent()) == [10]
    leader.tick_until_idle()
    assert machines.ledger._claims["ten"].sent


def test_what_an_earlier_term_claimed_in_a_ledger_that_lost_its_data_is_sent(machines: Machines) -> None:
    """It may find nothing that keeps it out. What it could not send any more must not give way to a newer tick."""
    machines.schedule = EVERY_TEN
    leader = machines.add()
    token = leader.lead()
    leader.tick_until_idle()
    known = machines.ledger._claims["ten"]
    machines.ledger.clear()
    tick = replace(known.tick, due_at=known.tick.due_at + timedelta(seconds=5))
    claim = Claim(tick, "of the earlier term", 1, tick.due_at, known.schedule)
    assert Claims(machines.ledger, token - 1).claim([claim]) == [True]
    machines.wall.advance(10)
    leader.scheduler.tick()
    assert machines.ledger._claims["ten"] == claim
    leader.tick_until_idle()
    machines.wall.advance(5)
    leader.tick_until_idle()
    messages = machines.sent()
    assert dues(messages) == [5, 15]
    assert messages[0]["id"] == claim.task_id


def test_whose_term_is_over_leaves_a_ledger_that_lost_its_data_to_others(machines: Machines) -> None:
    """Nothing there keeps it out, and what it claimed it could not send."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    outbox, known = leader.scheduler._leading.outbox, machines.ledger._claims["ten"]
    assert outbox
    machines.ledger.clear()
    leader.resign()
    with pytest.raises(LeadershipLost, match="is over"):
        outbox.claim([replace(known, tick=replace(known.tick, due_at=known.tick.due_at + timedelta(seconds=5)))])
    assert machines.ledger._claims == {}


def test_trust_that_ends_while_a_tick_is_claimed_sends_nothing(machines: Machines) -> None:
    """Whether the ledger answered late or never: the tick is the next leader's to send."""
    machines.schedule = EVERY_TEN
    first, second = machines.add(), machines.add()
    first.lead()
    first.tick_until_idle()
    machines.wall.advance(10)

    def too_late(*_: Any) -> None:
        first.resign()
        raise StoreUnavailable("no answer")

    with mock.patch.object(machines.ledger, "claim", too_late):
        first.scheduler.tick()
    assert machines.sent() == []
    second.lead()
    second.tick_until_idle()
    assert dues(machines.sent()) == [10]


def test_an_unsent_tick_of_an_unknown_entry_is_left_to_those_who_know_it(machines: Machines) -> None:
    """It holds up nothing; a deployment that is rolled back sends it."""
    machines.schedule = EVERY_TEN
    first = machines.leader()
    machines.wall.advance(10)
    with broken_broker(first):
        first.scheduler.tick()
    first.resign()
    machines.schedule = EACH_MINUTE
    second = machines.add()
    second.lead()
    second.tick_until_idle()
    machines.wall.advance(60)
    second.tick_until_idle()
    assert [each["task"] for each in machines.sent()] == ["t.minute"]
    second.resign()
    machines.schedule = EVERY_TEN
    third = machines.add()
    third.lead()
    third.scheduler.tick()
    assert dues(machines.sent())[0] == 10


def broken_broker(machine: Machine) -> Any:
    """Let publishing fail as it does while the broker is away."""
    error = OperationalError("[Errno 111] Connection refused")
    return mock.patch.object(machine.scheduler.app, "send_task", side_effect=error)


class Away(Scheduler):
    """Keeps its schedule in a store that is away: from the start, or later."""

    is_away = True

    def setup_schedule(self) -> None:
        if self.is_away:
            raise OSError("the schedule's store is away")
        super().setup_schedule()

    def schedules_equal(self, *args: Any, **kwargs: Any) -> bool:
        if self.is_away:
            raise OSError("the schedule's store is away")
        return bool(super().schedules_equal(*args, **kwargs))


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_failure_that_lasts_is_logged_once_a_minute(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, from_the_start: bool
) -> None:
    """With how often it came; a traceback a tick would bury everything else."""
    monkeypatch.setattr("celery_leader.beat.gate.STANDBY_WAIT", 0.001)
    machines.schedule = EVERY_TEN
    leader = machines.add(Away)
    home: Any = leader.scheduler
    now = 1000.0
    monkeypatch.setattr(home, "monotonic", lambda: now)
    leader.lead()
    home.is_away = from_the_start
    home.tick()
    home.is_away = True
    for _ in range(121):
        home.tick()
        now += 1
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 3
    assert all("the schedule's store is away" in each for each in errors)
    assert "times before" in errors[-1]
    home.is_away = False
    leader.tick_until_idle()
    machines.wall.advance(10)
    leader.tick_until_idle()
    assert dues(machines.sent()) == [10]
