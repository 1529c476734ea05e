"""Messages of ticks are delivered twice, at once and after a kill; each tick has its effect once."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections import Counter
from datetime import datetime, timezone
from typing import Any

import pytest
import redis

from celery_leader.beat.due_times import task_id
from celery_leader.ledger import DUE_HEADER, Tick
from tests.chaos.fleet import VISIBILITY, Fleet
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.redis, pytest.mark.timeout(300)]

QUEUE = "celery"
DUE = datetime(2026, 11, 23, 9, 0, tzinfo=timezone.utc)


def take(raw: redis.Redis) -> list[dict[str, Any]]:
    """Take all messages from the queue."""
    messages = [json.loads(text) for text in raw.lrange(QUEUE, 0, -1)]
    raw.delete(QUEUE)
    return messages


def put(raw: redis.Redis, messages: list[dict[str, Any]], times: int) -> None:
    """Put each of *messages* into the queue, *times* beside each other, as a sender does that sends again."""
    for message in messages:
        for _ in range(times):
            message["properties"]["delivery_tag"] = str(uuid.uuid4())
            raw.rpush(QUEUE, json.dumps(message))


def is_idle(raw: redis.Redis) -> bool:
    """Whether the broker has no message, waiting or with a worker."""
    return not (raw.llen(QUEUE) or raw.hlen("unacked"))


def effects(fleet: Fleet) -> dict[str, int]:
    """How many effects each tick had."""
    return dict(Counter(str(line["id"]) for line in fleet.evidence().of("effect")))


@pytest.mark.parametrize("fleet", ["sqlite"], indirect=True)
def test_messages_that_come_twice_have_one_effect(fleet: Fleet, raw: redis.Redis) -> None:
    """Ticks of a real beat, four messages of each, to three kinds of pools at once; acknowledged late, and early."""
    fleet.conf.update(
        leader_beat=False,
        beat_schedule={
            name: {"task": f"chaos_project.{name}", "schedule": 0.5, "args": [0.5]} for name in ("once", "once_early")
        },
    )
    fleet.start_beat("beat")
    eventually(lambda: raw.llen(QUEUE) >= 8, timeout=40)
    fleet.signal("beat", signal.SIGTERM)
    fleet.await_end("beat")
    messages = take(raw)
    ids = [message["headers"]["id"] for message in messages]
    assert len(set(ids)) == len(ids)
    workers = ("prefork", "threads", "gevent")
    for pool in workers:
        fleet.start(pool, "-P", pool, "-c", "3", "--without-leader")
    fleet.await_ready(*workers)
    put(raw, messages, 4)
    eventually(lambda: set(effects(fleet)) == set(ids) and is_idle(raw), timeout=60)
    fleet.stop_all()
    assert effects(fleet) == dict.fromkeys(ids, 1)
    assert Counter(line["id"] for line in fleet.evidence().of("once-start")) == Counter(ids)
    assert fleet.times_logged("dropped: this tick is done", *workers) >= 3 * len(ids)
    assert fleet.times_logged("put off for", *workers)
    assert len({line["pid"] for line in fleet.evidence().of("effect")}) >= 3
    print(f"\nchaos: {len(ids)} ticks, 4 messages each, {fleet.times_logged('put off for', *workers)} put off")  # noqa: T201


def test_a_tick_whose_worker_was_killed_has_one_effect(fleet: Fleet, raw: redis.Redis) -> None:
    """Killed in the midst of it. Two messages remain: one of a sender, one that the broker delivers again."""
    fleet.conf.update(leader_beat=False, beat_schedule={})
    tick = task_id("chaos", Tick("beat", "once", DUE))

    def send(seconds: float) -> None:
        fleet.app.send_task(
            "chaos_project.once_briefly", (seconds,), task_id=tick, headers={DUE_HEADER: DUE.isoformat()}
        )

    fleet.start("a", "-c", "1", "--without-leader")
    send(3.0)
    eventually(lambda: fleet.evidence().of("once-start"), timeout=40)
    fleet.signal_all("a", signal.SIGKILL)
    killed = time.monotonic()
    fleet.await_end("a")
    assert effects(fleet) == {}
    send(0.1)
    fleet.start("b", "-c", "2", "--without-leader")
    eventually(lambda: effects(fleet), timeout=60)
    # Only a starting worker looks for a dead worker's messages, and considers it dead no sooner than this.
    eventually(lambda: time.monotonic() - killed > VISIBILITY + 1, timeout=VISIBILITY + 5)
    fleet.start("c", "-c", "1", "--without-leader")
    dropped = "dropped: this tick is done"  # between queue and worker a message is nowhere to be seen
    eventually(lambda: fleet.times_logged(dropped, "b", "c") and is_idle(raw), timeout=60)
    fleet.stop_all()
    assert effects(fleet) == {tick: 1}
    assert len(fleet.evidence().of("once-start")) == 2
    assert fleet.times_logged(dropped, "b", "c") == 1
