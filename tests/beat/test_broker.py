"""The beat's own connection to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from tests.beat.conftest import Fleet
from tests.beat.test_scheduler import EVERY_TEN

if TYPE_CHECKING:
    from tests.servers import RedisServer


def test_a_connection_to_redis_makes_one_client(fleet: Fleet, redis_server: RedisServer) -> None:
    """kombu makes one for each message, which takes a quarter of its time."""
    channel = fleet.machine(broker=redis_server.url).scheduler.producer.channel
    with channel.conn_or_acquire() as one, channel.conn_or_acquire() as another:
        assert one is another
        assert one.ping()


def test_a_connection_that_was_cut_while_it_was_idle_sends_the_next_tick(
    fleet: Fleet, redis_server: RedisServer
) -> None:
    """At once, and with a client of the new connection."""
    fleet.schedule = EVERY_TEN
    fleet.conf = {"task_default_queue": "cut"}
    leader = fleet.machine(broker=redis_server.url)
    leader.lead()
    leader.tick_until_idle()
    with redis.Redis.from_url(redis_server.url) as client:
        for sent in (1, 2, 3):
            fleet.wall.advance(10)
            leader.tick_until_idle()
            assert client.llen("cut") == sent
            assert client.client_kill_filter(_type="normal", skipme=True) > 0
        client.delete("cut")
