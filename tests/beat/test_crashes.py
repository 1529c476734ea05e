"""A leader dies at each boundary of a tick's way, on each kind of ledger: nothing is lost, nothing is doubled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from celery_leader.exceptions import StoreUnavailable
from tests.beat.machines import Machines
from tests.databases import emptied

ENTRIES = {name: {"task": f"t.{name}", "schedule": 10.0} for name in ("a", "b", "c")}


@pytest.fixture(params=["memory", "redis", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def machines(request: pytest.FixtureRequest, machines: Machines, django_db_blocker: Any) -> Iterator[Machines]:
    """Machines on each kind of store, with nothing in it."""
    machines.schedule = ENTRIES
    if request.param == "redis":
        machines.store = request.getfixturevalue("redis_server").url
        machines.conf = {"leader_key_prefix": request.node.nodeid}
    elif request.param != "memory":
        with django_db_blocker.unblock():
            machines.store = f"django-db://{emptied(request.getfixturevalue(f'{request.param}_alias'))}"
            yield machines
            return
    yield machines


class Dies(SystemExit):
    """Nothing that the beat catches: the end of its process."""


def dying(call: Callable[..., Any], *, after: bool, times: list[int]) -> Callable[..., Any]:
    """Return *call* such that the process dies before, or after, it is done for the *times*\\ th time."""

    def call_and_die(*args: Any, **kwargs: Any) -> Any:
        times[0] -= 1
        if times[0] and not after:
            return call(*args, **kwargs)
        result = call(*args, **kwargs) if after else None
        if not times[0]:
            raise Dies
        return result

    return call_and_die


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("boundary", "time"), [("claim", 1), ("send", 1), ("send", 2), ("send", 3), ("confirm", 1)])
def test_the_next_leader_goes_on(machines: Machines, boundary: str, time: int, after: bool) -> None:
    """Each tick has one id, whoever sent it; each entry ran at 10 and at 20 seconds."""
    first, second = machines.add(), machines.add()
    first.lead()
    first.tick_until_idle()
    machines.wall.advance(10)
    owner = first.scheduler.app if boundary == "send" else first.scheduler._leading.outbox.claims._ledger
    name = "send_task" if boundary == "send" else boundary
    with (
        mock.patch.object(owner, name, dying(getattr(owner, name), after=after, times=[time])),
        mock.patch.object(
            first.scheduler._leading.outbox.claims, "confirm", first.scheduler._leading.outbox.claims.confirm
        )
        if boundary == "confirm"
        else mock.patch.object(first.scheduler._leading.outbox.claims, "confirm"),  # the dead confirm nothing
        pytest.raises(Dies),
    ):
        first.scheduler.tick()
    first.resign()
    second.lead()
    second.tick_until_idle()
    machines.wall.advance(10)
    second.tick_until_idle()

    ids, times = defaultdict(set), Counter()
    for message in machines.sent():
        ids[message["task"], message["leader_due_at"]].add(message["id"])
        times[message["id"]] += 1
    assert sorted({task for task, _ in ids}) == ["t.a", "t.b", "t.c"]
    assert len(ids) == 6, ids
    assert all(len(found) == 1 for found in ids.values())
    # Sent again is what the dead had sent and could not confirm, once each, and nothing else.
    unconfirmed = {"claim": 0, "send": time - 1 + after, "confirm": 0 if after else 3}[boundary]
    assert sum(times.values()) - len(times) == unconfirmed
    waiting = {"claim": 3 if after else 0, "send": 3, "confirm": 0 if after else 3}[boundary]
    assert second.scheduler.counts.resent == waiting


def test_a_claim_whose_answer_is_lost_is_sent_once(machines: Machines) -> None:
    """The ledger has it; the leader, who trusts itself, sends it, and nobody sends it again."""
    leader = machines.leader()
    machines.wall.advance(10)
    ledger = leader.scheduler._leading.outbox.claims._ledger
    claim = ledger.claim

    def lose_the_answer(*args: Any) -> Any:
        claim(*args)
        raise StoreUnavailable("the answer was lost")

    with mock.patch.object(ledger, "claim", lose_the_answer), mock.patch("celery_leader.beat.claims._ASK_AGAIN", 0):
        leader.scheduler.tick()
        leader.scheduler.tick()
    assert len(machines.sent()) == 3
    leader.resign()
    following = machines.add()
    following.lead()
    following.tick_until_idle()
    assert machines.sent() == []
