"""The beat's own connection to the broker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import redis
from celery import Celery

from celery_leader.beat.connection import open_connection
from celery_leader.beat.outbox import FAILURES_OF_A_BROKER, REFUSED_AGAIN
from tests.beat.machines import EVERY_TEN, Machines

if TYPE_CHECKING:
    from tests.servers import RedisServer


def test_a_connection_to_redis_makes_one_client(machines: Machines, redis_server: RedisServer) -> None:
    """kombu makes one for each message, which takes a quarter of its time."""
    channel = machines.add(broker=redis_server.url).scheduler.producer.channel
    with channel.conn_or_acquire() as one, channel.conn_or_acquire() as another:
        assert one is another
        assert one.ping()


def test_a_connection_that_was_cut_while_it_was_idle_sends_the_next_tick(
    machines: Machines, redis_server: RedisServer
) -> None:
    """At once, and with a client of the new connection."""
    machines.schedule = EVERY_TEN
    machines.conf = {"task_default_queue": "cut"}
    leader = machines.add(broker=redis_server.url)
    leader.lead()
    leader.tick_until_idle()
    with redis.Redis.from_url(redis_server.url) as client:
        for sent in (1, 2, 3):
            machines.wall.advance(10)
            leader.tick_until_idle()
            assert client.llen("cut") == sent
            assert client.client_kill_filter(_type="normal", skipme=True) > 0
        client.delete("cut")


def test_what_redis_refuses_holds_up_nothing_else(machines: Machines, redis_server: RedisServer) -> None:
    """Something else is kept under a queue's name, or the user has no rights for it; however many messages it is."""
    machines.conf = {"task_default_queue": "granted"}
    refused = {
        f"{queue}{number}": {"task": "t.refused", "schedule": 10.0, "options": {"queue": queue}}
        for queue in ("granted-text", "forbidden")
        for number in range(FAILURES_OF_A_BROKER)
    }
    machines.schedule = {**refused, **EVERY_TEN}
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("granted-text", "text")
        client.acl_setuser(
            "limited", enabled=True, passwords=["+secret"], commands=["+@all"], keys=["granted*", "_kombu*"]
        )
        leader = machines.add(broker=redis_server.url.replace("redis://", "redis://limited:secret@"))
        leader.lead()
        leader.tick_until_idle()
        for _ in range(3):
            machines.wall.advance(10)
            leader.tick_until_idle()
        assert client.llen("granted") == 3
        assert {name for name, claim in machines.ledger._claims.items() if not claim.sent} == refused.keys()
        client.delete("granted-text")
        client.acl_setuser("limited", keys=["*"])
        with mock.patch.object(leader.scheduler._leading.outbox, "_now", return_value=time.monotonic() + REFUSED_AGAIN):
            leader.tick_until_idle()
        assert [client.llen(queue) for queue in ("granted-text", "forbidden")] == [FAILURES_OF_A_BROKER] * 2
        client.delete("granted", "granted-text", "forbidden")
        client.acl_deluser("limited")


def test_a_connection_that_was_cut_is_not_made_again(machines: Machines) -> None:
    """A stopping beat must not wait twice for a machine that is gone."""
    publisher = machines.add().scheduler._publisher
    publisher.connection_failed(OSError("refused"), 0)
    publisher.cut()
    with pytest.raises(OSError, match="refused"):
        publisher.connection_failed(OSError("refused"), 0)


@pytest.mark.parametrize("is_cut", [True, False])
def test_no_error_of_a_cut_connection_gives_a_message_up(machines: Machines, is_cut: bool) -> None:
    """A socket that another thread shuts down fails in any way. Otherwise such an error is the message's own."""
    machines.schedule = EVERY_TEN
    leader = machines.leader()

    def fail(*_: object, **__: object) -> None:
        if is_cut:
            leader.campaign.close_to_new_work()
            leader.scheduler.cut()
        raise AttributeError("'NoneType' object has no attribute 'recv'")

    machines.wall.advance(10)
    with mock.patch.object(leader.scheduler.app, "send_task", fail):
        leader.scheduler.tick()
    assert machines.ledger._claims["ten"].sent is not is_cut


@pytest.mark.parametrize(
    ("url", "given", "expected"),
    [
        ("redis://", {}, {"socket_timeout": 3.0, "socket_connect_timeout": 2.0}),
        ("redis://", {"socket_timeout": 60, "db": 1}, {"socket_timeout": 3.0, "socket_connect_timeout": 2.0, "db": 1}),
        ("redis://", {"socket_timeout": 0.5}, {"socket_timeout": 0.5, "socket_connect_timeout": 2.0}),
        ("redis://", {"socket_connect_timeout": 60}, {"socket_timeout": 3.0, "socket_connect_timeout": 2.0}),
        (
            "amqp://",
            {"read_timeout": 60, "confirm_publish": False},
            {"connect_timeout": 1.0, "read_timeout": 3.0, "write_timeout": 3.0, "confirm_publish": True},
        ),
        ("memory://", {"socket_timeout": 60}, {"socket_timeout": 60}),
    ],
)
def test_each_wait_for_the_broker_is_bounded(url: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    """A project may say less, not more: nothing else is sent meanwhile."""
    app = Celery("proj", broker=url, set_as_current=False)
    app.conf.update(broker_transport_options=given, broker_connection_timeout=1.0)
    assert open_connection(app, 3.0).transport_options == expected
