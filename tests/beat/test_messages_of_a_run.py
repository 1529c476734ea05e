"""A base may send several messages a run, or fail in its own code: no run is lost, and none is sent by halves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from celery.beat import Scheduler
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from celery_leader.beat.outbox import REFUSED_AGAIN
from tests.beat.machines import EACH_MINUTE, EVERY_TEN, Machine, Machines, counted_claims, dues

TENANTS = 3


class PerTenant(Scheduler):
    """Sends a message for each tenant, as tenant-schemas-celery does."""

    tenants = TENANTS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.results: list[Any] = []
        super().__init__(*args, **kwargs)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        for _ in range(self.tenants):
            try:
                self.results.append(self.apply_async(entry, producer=producer, advance=False))
            except Exception:
                logging.getLogger("tenants").exception("not sent")


@contextmanager
def failing_from(machine: Machine, number: int, error: Exception) -> Iterator[None]:
    """Let the message *number* and all later ones fail; the first is 0."""
    send_task, counter = machine.scheduler.app.send_task, iter(range(10**6))

    def send(*args: Any, **kwargs: Any) -> Any:
        if next(counter) >= number:
            raise error
        return send_task(*args, **kwargs)

    with mock.patch.object(machine.scheduler.app, "send_task", send):
        yield


def test_a_base_may_send_several_messages_a_run(machines: Machines) -> None:
    """One claim, all messages, an id for each, and their results for the base."""
    machines.schedule = EVERY_TEN
    leader = machines.leader(PerTenant)
    with counted_claims() as claim:
        sent = machines.after(leader)
        assert claim.call_count == 1
    assert dues(sent) == [10] * TENANTS
    assert len({each["id"] for each in sent}) == TENANTS
    assert sent[0]["id"] == machines.ledger._claims["ten"].task_id
    assert all(isinstance(result, AsyncResult) for result in leader.scheduler.results)
    assert [result.id for result in leader.scheduler.results] == [each["id"] for each in sent]
    assert leader.scheduler.counts.sent == 1
    assert {each["id"] for each in machines.after(leader)}.isdisjoint({each["id"] for each in sent})


def test_who_sends_a_run_again_sends_the_same_messages(machines: Machines) -> None:
    """By the next leader, when the one before died on it, whatever it had sent."""
    machines.schedule = EVERY_TEN
    first = machines.leader(PerTenant)
    machines.wall.advance(10)
    with failing_from(first, 2, SystemExit()), pytest.raises(SystemExit):  # type: ignore[arg-type]
        first.scheduler.tick()
    before = [each["id"] for each in machines.sent()]
    assert len(before) == 2
    machines.leader(PerTenant)
    again = [each["id"] for each in machines.sent()]
    assert again[:2] == before
    assert len(set(again)) == TENANTS


def test_a_run_is_sent_in_full_when_the_broker_is_back(machines: Machines) -> None:
    """It is not asked for the rest of a run that found it away: each message would wait for it."""
    machines.schedule = EVERY_TEN
    leader = machines.leader(PerTenant)
    send_task = mock.Mock(side_effect=OperationalError("[Errno 111] Connection refused"))
    machines.wall.advance(10)
    with mock.patch.object(leader.scheduler.app, "send_task", send_task):
        leader.scheduler.tick()
    assert send_task.call_count == 1
    assert not machines.ledger._claims["ten"].sent
    leader.tick_until_idle()
    assert dues(machines.sent()) == [10] * TENANTS
    assert machines.ledger._claims["ten"].sent


def test_trust_that_ends_within_a_run_leaves_it_to_the_next_leader(machines: Machines) -> None:
    """The rest of its messages is not sent."""
    machines.schedule = EVERY_TEN
    first = machines.leader(PerTenant)
    send_task = first.scheduler.app.send_task

    def send_and_resign(*args: Any, **kwargs: Any) -> Any:
        first.resign()
        return send_task(*args, **kwargs)

    machines.wall.advance(10)
    with mock.patch.object(first.scheduler.app, "send_task", send_and_resign):
        first.scheduler.tick()
    assert len(machines.sent()) == 1
    machines.leader(PerTenant)
    assert dues(machines.sent()) == [10] * TENANTS


def test_a_message_that_can_never_be_sent_takes_no_other_of_its_run_along(machines: Machines) -> None:
    """As with Celery's beat."""
    machines.schedule = {"bad": {"task": "t.bad", "schedule": 10.0, "args": (object(),)}, **EVERY_TEN}
    leader = machines.leader(PerTenant)
    assert [each["task"] for each in machines.after(leader)] == ["t.ten"] * TENANTS
    assert machines.ledger._claims["bad"].sent


class Fails(Scheduler):
    """Fails in its own code: before it sends anything, or after."""

    fails_after = 0
    attempts = 0

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        self.attempts += 1
        for _ in range(self.fails_after):
            self.apply_async(entry, producer=producer, advance=False)
        if self.attempts == 1:
            raise LookupError("the tenants' table does not answer")
        super().apply_entry(entry, producer=producer)


def test_a_base_that_fails_before_it_sends_is_asked_again(machines: Machines) -> None:
    """A tick is not lost because a database that the base asks was away for a moment; others go on."""
    machines.schedule = {**EVERY_TEN, **EACH_MINUTE}
    leader = machines.leader(Fails)
    assert machines.after(leader) == []
    assert [each["task"] for each in machines.after(leader, 20)] == ["t.minute"]
    with mock.patch.object(leader.scheduler._leading.outbox, "_now", return_value=float("inf")):
        assert dues(machines.after(leader, REFUSED_AGAIN))[0] == 10


def test_a_base_that_fails_after_it_sent_is_not_asked_again(machines: Machines) -> None:
    """Or what it sent would be sent again and again."""
    machines.schedule = EVERY_TEN
    leader = machines.leader(Fails)
    leader.scheduler.fails_after = 1
    assert dues(machines.after(leader)) == [10]
    assert machines.ledger._claims["ten"].sent
