"""Beats over ledgers that somebody else wrote into: one bad row costs its own entry, and nothing spins."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any
from unittest import mock

import pytest
import redis
from hypothesis import given

from celery_leader.beat.claims import Claims
from celery_leader.exceptions import LeadershipLost, UnstorableClaim
from tests.beat.machines import EVERY_TEN, START, Machines, dues
from tests.test_hostile_stores import CLAIMS, QUIETLY

LEDGER = "proj:{default}:ledger"
CLAIMED = "1763888400654321"


@pytest.fixture
def raw(machines: Machines, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """Let the machines use a real Redis."""
    machines.store = request.getfixturevalue("redis_server").url
    with redis.Redis.from_url(machines.store) as client:
        client.flushall()
        yield client
        for machine in machines.started:
            machine.scheduler.close()
            machine.campaign.stop()


@pytest.mark.redis
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("when", ["before it leads", "while it leads"])
@pytest.mark.parametrize(
    "value",
    [
        b"9" * 30 + f"|1|{CLAIMED}|1|2|id".encode(),
        f"221845392000000000|1|{CLAIMED}|1|2|id".encode(),
        f"{CLAIMED}|1|253402300799999999|1|2|id".encode(),
        f"{CLAIMED}|1|-62135596800000000|1|2|id".encode(),
        f"{CLAIMED}|1|{CLAIMED}|9223372036854775807|2|id".encode(),
        b"\xff",
    ],
    ids=["too large for a date", "in the year 9000", "claimed in 9999", "claimed in 1", "too many runs", "no UTF-8"],
)
def test_a_damaged_row_costs_its_own_entry_a_moment(
    machines: Machines, raw: redis.Redis, zone: str, when: str, value: bytes
) -> None:
    """All others go out in time, the entry itself with its next run; the store is asked no more than usual."""
    machines.conf = {"timezone": zone}
    machines.schedule = {
        **EVERY_TEN,
        "bad": {"task": "t.bad", "schedule": 10.0},
        "five": {"task": "t.five", "schedule": 5.0},
    }
    leader = machines.add()
    if when == "before it leads":
        raw.hset(LEDGER, "entry:bad", value)
        raw.hset(LEDGER, b"entry:\xff", b"\xff")
    leader.lead()
    leader.tick_until_idle()
    raw.hset(LEDGER, "entry:bad", value)
    before = raw.info("stats")["total_commands_processed"]
    for _ in range(4):
        machines.wall.advance(5)
        leader.lead()
        leader.tick_until_idle()
        leader.tick_until_idle()
    sent = machines.sent()
    assert dues([each for each in sent if each["task"] == "t.five"]) == [5, 10, 15, 20]
    assert dues([each for each in sent if each["task"] == "t.ten"]) == [10, 20]
    assert 1 <= len([each for each in sent if each["task"] == "t.bad"]) <= 2
    assert raw.info("stats")["total_commands_processed"] - before < 150


def test_a_ledger_that_refuses_for_ever_is_not_asked_without_a_pause(machines: Machines) -> None:
    """Somebody rewrites the rows faster than they are removed; or a fault of ours."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    machines.wall.advance(10)
    with mock.patch.object(machines.ledger, "claim", side_effect=lambda token, claims: [False] * len(claims)) as claim:
        for _ in range(5):
            assert leader.scheduler.tick() >= 1
        assert claim.call_count == 5
    leader.tick_until_idle()
    assert dues(machines.sent()) == [10]


def test_a_row_that_is_due_after_it_was_claimed_makes_no_loop(machines: Machines) -> None:
    """No leader writes one; it is removed, and the entry goes on from what the leader knows."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    known = machines.ledger._claims["ten"]
    machines.ledger._claims["ten"] = replace(
        known, tick=replace(known.tick, due_at=datetime(9000, 1, 1, tzinfo=timezone.utc))
    )
    machines.wall.advance(10)
    assert leader.scheduler.tick() >= 1
    leader.tick_until_idle()
    assert dues(machines.sent()) == [10]


def test_what_a_damaged_row_should_say_is_written_back(machines: Machines) -> None:
    """By the leader that knows it: the next one would start the entry afresh."""
    machines.schedule = {**EVERY_TEN, "hour": {"task": "t.hour", "schedule": 3600.0}}
    leader = machines.leader()
    known = dict(machines.ledger._claims)
    for entry, claim in known.items():
        machines.ledger._claims[entry] = replace(
            claim, tick=replace(claim.tick, due_at=datetime(9000, 1, 1, tzinfo=timezone.utc))
        )
    machines.wall.advance(10)
    leader.scheduler.tick()  # is refused
    leader.tick_until_idle()
    assert machines.ledger._claims["hour"] == known["hour"]
    assert dues(machines.sent()) == [10]


def test_what_was_sent_unclaimed_while_the_ledger_was_silent_is_left_out_later(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the ledger answers again it refuses the claim. Nothing fails for it, and the others are written."""
    from celery_leader.exceptions import StoreUnavailable

    def refuse(claims: Any) -> None:
        if any(claim.tick.entry == "bad" for claim in claims):
            raise UnstorableClaim("bad. Rename the entry")

    machines.schedule = {**EVERY_TEN, "bad": {"task": "t.bad", "schedule": 10.0}}
    leader = machines.add()
    silence = mock.Mock(side_effect=StoreUnavailable("no answer"))
    with mock.patch.multiple(machines.ledger, claim=silence, confirm=silence, restore=silence):
        leader.lead()
        leader.tick_until_idle()
        machines.wall.advance(10)
        leader.tick_until_idle()
        assert dues(machines.sent()) == [10, 10]
    monkeypatch.setattr("celery_leader.backends.memory.require_names", refuse)
    monkeypatch.setattr("celery_leader.beat.claims._ASK_AGAIN", 0)
    claims = leader.scheduler._leading.outbox.claims  # type: ignore[union-attr]
    with mock.patch.object(claims, "_now", return_value=time.monotonic() + 5):
        leader.scheduler.tick()
    machines.wall.advance(10)
    leader.tick_until_idle()
    assert [each["task"] for each in machines.sent()] == ["t.ten"]
    assert machines.ledger._claims["ten"].sent
    assert "bad" not in machines.ledger._claims
    assert "a tick of the beat failed" not in caplog.text
    assert "1 of this schedule's entries are not sent" in caplog.text


def test_a_million_unsent_claims_are_no_long_line(machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
    """Of entries that nobody knows: a few are named, and how many more there are."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()
    known = machines.ledger._claims["ten"]
    for number in range(20_000):
        tick = replace(known.tick, entry=f"entry {number}\n")
        machines.ledger._claims[tick.entry] = replace(known, tick=tick, sent=False)
    leader.resign()
    other = machines.add()
    other.lead()
    other.tick_until_idle()
    (told,) = [text for each in caplog.records if "not in this schedule" in (text := each.getMessage())]
    assert "and 19,997 more" in told
    assert len(told) < 300
    assert told.isprintable()


def test_a_ledger_of_a_term_that_never_was_is_named_with_its_cure(
    machines: Machines, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first as something that may pass; from the renew deadline on once a minute, until it is cured."""
    machines.schedule = EVERY_TEN
    leader = machines.add()
    token = leader.lead()
    now = 1000.0
    monkeypatch.setattr(type(leader.scheduler), "monotonic", lambda self: now)
    monkeypatch.setattr(leader.scheduler, "_stand_by", lambda: None)
    refusal = LeadershipLost(f"the ledger was opened by token 99; {token} is over", cure="redis-cli HDEL ledger token")
    with mock.patch.object(machines.ledger, "open", side_effect=refusal):
        told = []
        for _ in range(240):  # two minutes
            leader.lead()
            leader.scheduler.tick()
            now += 0.5
        told = [(each.levelno, each.getMessage()) for each in caplog.records if "take over" in each.getMessage()]
    assert [level for level, _ in told] == [logging.WARNING, logging.ERROR, logging.ERROR]
    assert "HDEL" not in told[0][1]
    assert all("The cure: redis-cli HDEL ledger token" in text and "NOT sent" in text for _, text in told[1:])
    leader.scheduler.tick()
    machines.wall.advance(10)
    leader.tick_until_idle()
    assert dues(machines.sent()) == [10]


def test_half_of_a_batch_that_can_be_kept_is(monkeypatch: pytest.MonkeyPatch, machines: Machines) -> None:
    """Any number of claims that can't be kept, anywhere in a batch, cost no other its place, and few calls."""
    machines.schedule = EVERY_TEN
    leader = machines.add()
    token = leader.lead()
    leader.tick_until_idle()
    ledger, known = machines.ledger, machines.ledger._claims["ten"]
    bad = {"entry 0", "entry 17", "entry 18", "entry 499"}

    def refuse(claims: Any) -> None:
        if any(claim.tick.entry in bad for claim in claims):
            raise UnstorableClaim("bad")

    monkeypatch.setattr("celery_leader.backends.memory.require_names", refuse)
    claims = Claims(ledger, token)
    batch = [replace(known, tick=replace(known.tick, entry=f"entry {number}")) for number in range(500)]
    with mock.patch.object(ledger, "claim", wraps=ledger.claim) as claim:
        assert claims.claim(batch) == [each.tick.entry not in bad for each in batch]
        assert claim.call_count < 80
    assert ledger._claims.keys() == {each.tick.entry for each in batch} - bad | {"ten"}
    assert [claims.can_keep(each.tick.entry) for each in batch] == [each.tick.entry not in bad for each in batch]


@pytest.mark.redis
@QUIETLY
@given(early=CLAIMS, late=CLAIMS)
def test_no_row_ends_a_beat_or_lets_it_spin(machines: Machines, raw: redis.Redis, early: bytes, late: bytes) -> None:
    """One that was there before and one that comes meanwhile, of any bytes: the other entry's ticks go out in time."""
    raw.flushall()
    machines.sent()
    machines.schedule = {name: {"task": f"t.{name}", "schedule": 10.0} for name in ("good", "early", "late")}
    raw.hset(LEDGER, "entry:early", early)
    leader = machines.add()
    begun = (machines.wall.now - START).total_seconds()
    leader.lead()
    leader.tick_until_idle()
    raw.hset(LEDGER, "entry:late", late)
    before = raw.info("stats")["total_commands_processed"]
    for _ in range(3):
        machines.wall.advance(10)
        leader.lead()
        leader.tick_until_idle()
        leader.tick_until_idle()
    assert raw.info("stats")["total_commands_processed"] - before < 200
    good = [each for each in machines.sent() if each["task"] == "t.good"]
    assert dues(good) == [begun + 10, begun + 20, begun + 30]
    leader.scheduler.close()
    leader.campaign.stop()
    machines.started.remove(leader)
