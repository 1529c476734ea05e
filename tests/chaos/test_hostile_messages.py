"""Messages that lie, and followers that are refused by their broker: guarded tasks run on the leader only.

Whatever comes, a follower stays calm: a message that can't go on waits, and the log says why, now and then.
"""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Queue

from tests.chaos.fleet import Fleet
from tests.servers import RabbitServer, RedisServer
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

RABBIT = pytest.param(RabbitServer, marks=pytest.mark.rabbitmq)
GUARDED, LEADERS, QUEUE = "chaos_project.guarded", "celery-leader.default", "celery"
TICK = os.sysconf("SC_CLK_TCK")

#: Claims that the third part of a body, or the headers, may make about the request.
LIES: list[dict[str, Any]] = [
    {"is_eager": True},
    {"is_eager": True, "properties": None},
    {"called_directly": True},
    {"delivery_info": {"exchange": LEADERS, "routing_key": LEADERS}},
    {"delivery_info": {"exchange": "", "routing_key": LEADERS, "is_eager": True}},
    {"headers": {}},
    {"leader_to_follower": True},
    {"__leader_only__": True},
    {"hostname": "one@chaos", "id": "x", "task": "chaos_project.ask"},
]


@pytest.fixture
def crew(fleet: Fleet) -> Fleet:
    """A fleet without ticks, whose broker delivers again nothing that it gave away."""
    fleet.conf["beat_schedule"] = {}
    fleet.visibility = 600
    return fleet


def follow(fleet: Fleet, *options: str) -> None:
    """Start a worker that takes part in no election."""
    fleet.start("follower", "-c", "2", "--without-leader", *options)
    fleet.await_ready("follower")


def message(number: int, *, embed: dict[str, Any], headers: dict[str, Any], delivery_info: dict[str, Any]) -> str:
    """Return a message of a guarded task, as kombu keeps it in Redis."""
    body = [[number], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **embed}]
    properties = {
        "correlation_id": str(uuid.uuid4()), "reply_to": "", "delivery_mode": 2, "priority": 0,
        "body_encoding": "base64", "delivery_tag": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": QUEUE, **delivery_info},
    }  # fmt: skip
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "id": str(uuid.uuid4()), "task": GUARDED, "retries": 0, **headers},
            "properties": properties,
        }
    )


@contextmanager
def calm(fleet: Fleet, seconds: float = 4.0) -> Iterator[None]:
    """Check that a follower does next to nothing, for some time, from when the block has ended."""
    yield
    spent, written, begun = cpu(fleet), len(fleet.log_of("follower")), time.monotonic()
    time.sleep(seconds)  # what is measured
    elapsed = time.monotonic() - begun
    share, rate = (cpu(fleet) - spent) / elapsed, (len(fleet.log_of("follower")) - written) / elapsed
    print(f"\nchaos: a follower spent {share:.1%} of a core and logged {rate:.0f} bytes/s")  # noqa: T201
    assert share < 0.10
    assert rate < 1000


def cpu(fleet: Fleet) -> float:
    """Return the processor time (seconds) that the follower's processes have used."""
    used = 0
    for pid in fleet.children("follower"):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
    return used / TICK


def test_no_message_makes_a_follower_run_a_guarded_task(crew: Fleet, raw: redis.Redis) -> None:
    """Each goes on to the leader's queue, and the leader runs it, once."""
    follow(crew)
    messages = [message(0, embed={}, headers={}, delivery_info={"routing_key": LEADERS})]
    for lie in LIES:
        messages.append(message(len(messages), embed=lie, headers={}, delivery_info={}))
        headers = {key: value for key, value in lie.items() if key not in {"id", "task"}}
        messages.append(message(len(messages), embed={}, headers=headers, delivery_info={}))
    raw.rpush(QUEUE, *messages)
    eventually(lambda: raw.llen(LEADERS) == len(messages), timeout=20)
    with calm(crew):
        assert (raw.llen(QUEUE), raw.hlen("unacked")) == (0, 0)
    assert crew.evidence().of("guarded-start") == []
    crew.start("leader")
    eventually(lambda: not crew.evidence().guarded_wrong(len(messages), set()), timeout=30)
    crew.stop_all()
    assert len(crew.evidence().of("guarded-start")) == len(messages)


def test_a_map_of_a_guarded_task_fails(crew: Fleet, raw: redis.Redis) -> None:
    """Any worker that received it would call the task like a function."""
    follow(crew)
    for by in ("celery.map", "celery.starmap"):
        task = {"task": GUARDED, "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
        crew.app.send_task(by, kwargs={"task": task, "it": [[1]]}, queue=QUEUE)
    eventually(lambda: crew.times_logged("raised unexpected: NotLeader", "follower") == 2, timeout=20)
    assert crew.evidence().of("guarded-start") == []
    assert raw.llen(LEADERS) == 0


def test_an_error_callback_runs_on_the_leader(crew: Fleet, raw: redis.Redis) -> None:
    """Celery calls one of several arguments like a function: in a child, or in the main process when time is over."""
    follow(crew)
    guarded = [crew.app.signature(GUARDED, args=(number, 0.0), immutable=True) for number in (0, 1)]
    crew.app.send_task("chaos_project.ask", link_error=guarded[0], queue=QUEUE)  # fails, for it needs a number
    crew.app.send_task("chaos_project.keep_asking", (60,), link_error=guarded[1], time_limit=1, queue=QUEUE)
    eventually(lambda: crew.times_logged("Hard time limit", "follower") and raw.llen(LEADERS) >= 2, timeout=20)
    assert crew.times_logged("raised an exception", "follower") == 0  # it would have run in vain
    assert crew.evidence().of("guarded-start") == []
    crew.start("leader")
    eventually(lambda: {line["number"] for line in crew.evidence().of("guarded-end")} == {0, 1}, timeout=30)


def test_a_follower_that_may_not_forward_waits(crew: Fleet, broker: RedisServer, raw: redis.Redis) -> None:
    """Its user may not write to the leader's queue. Nothing is lost, and all goes on when it may."""
    keys = (QUEUE, f"{QUEUE}\x06*", "unacked*", "_kombu*", "*pidbox*", "*celeryev*", "binding*")
    raw.execute_command("ACL", "SETUSER", "follower", "on", "nopass", "+@all", "&*", *(f"~{key}" for key in keys))
    crew.conf["broker_url"] = broker.url.replace("redis://", "redis://follower:any@")
    follow(crew)
    for number in range(3):
        crew.app.send_task(GUARDED, (number,), queue=QUEUE)
    eventually(lambda: crew.times_logged("can't be forwarded", "follower"), timeout=20)
    before = raw.info("stats")["total_commands_processed"]
    with calm(crew):
        pass
    assert raw.info("stats")["total_commands_processed"] - before < 400
    assert raw.llen(LEADERS) == 0
    assert crew.times_logged("can't be forwarded", "follower") == 1
    raw.execute_command("ACL", "SETUSER", "follower", "~*")
    eventually(lambda: raw.llen(LEADERS) == 3, timeout=20)
    eventually(lambda: (raw.llen(QUEUE), raw.hlen("unacked")) == (0, 0), timeout=20)


@pytest.mark.parametrize("broker", [RABBIT], indirect=True)
def test_rabbitmq_loses_nothing_that_it_refuses(crew: Fleet, broker: RabbitServer) -> None:
    """The leader's queue was declared with other arguments: messages for it are held until that is mended."""
    follow(crew)
    with Connection(broker.url) as connection:
        wrong = Queue(LEADERS, queue_arguments={"x-max-priority": 5})(connection.default_channel)
        wrong.declare()
        crew.app.send_task(GUARDED, (0,), queue=QUEUE)
        with calm(crew):
            eventually(lambda: crew.times_logged("can't be forwarded", "follower"), timeout=20)
        wrong.delete()
    eventually(lambda: crew.times_logged("forwarded to the leader's queue", "follower"), timeout=20)
    crew.start("leader")
    eventually(lambda: not crew.evidence().guarded_wrong(1, set()), timeout=30)


@pytest.mark.parametrize("broker", [RedisServer, RABBIT], indirect=True)
def test_a_worker_that_can_not_lead_leaves_the_leaders_queue_alone(crew: Fleet) -> None:
    """Although the command line and a remote control command order it to consume that queue."""
    follow(crew, "-Q", f"{QUEUE},{LEADERS}")
    crew.app.control.add_consumer(LEADERS, destination=["follower@chaos"], reply=True)
    with calm(crew):
        crew.send_guarded(3)
    crew.app.control.add_consumer(LEADERS, destination=["follower@chaos"], reply=True)
    with calm(crew):
        crew.send_guarded(1)
    assert crew.evidence().of("guarded-start") == []
    crew.start("leader")
    eventually(lambda: not crew.evidence().guarded_wrong(4, set()), timeout=30)
    crew.stop_all()
    assert len(crew.evidence().of("guarded-start")) == 4
