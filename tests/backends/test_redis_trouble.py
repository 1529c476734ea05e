"""A Redis or Valkey that goes away, hangs, trickles, comes back empty, and connections that are killed."""

from __future__ import annotations

import gc
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
import redis

from celery_leader.backends import open_backend
from celery_leader.backends.redis.address import parse
from celery_leader.backends.redis.client import RedisClient
from celery_leader.exceptions import (
    RecordConflict,
    RecordNotFound,
    StoreUnavailable,
)
from celery_leader.testing import sample_claim, sample_record
from tests.backends.made import backend_of
from tests.contracts.proxy import Proxy
from tests.servers import HOST, RedisServer
from tests.waiting import eventually

pytestmark = pytest.mark.redis

RECORD = "celery-leader:{default}:record"
LEDGER = "celery-leader:{default}:ledger"


def test_a_killed_connection_costs_nothing(server: RedisServer, raw: redis.Redis) -> None:
    """CLIENT KILL, an idle timeout, a restart of something between: it is found dead before the next call."""
    backend = backend_of(server)
    lock, ledger = backend.lock("default"), backend.ledger("default")
    stored = lock.create(sample_record())
    ledger.open(1)
    for second in range(3):
        assert raw.client_kill_filter(skipme=True, _type="normal") >= 2
        stored = lock.update(sample_record(leader_transitions=second), stored)
        assert list(ledger.claim(1, [sample_claim(second=second)])) == [True]
    assert lock.get() == stored
    lock.close()
    ledger.close()


def waiting() -> set[threading.Thread]:
    """The threads that wait for a Redis."""
    return {thread for thread in threading.enumerate() if thread.name == "celery-leader-redis"}


def test_threads_that_wait_in_vain_end(server: RedisServer) -> None:
    """A server that trickles for an hour costs a handful of threads, not one a call."""
    before = waiting()
    with Proxy((HOST, server.port)) as proxy:
        host, port = proxy.address
        lock = open_backend(f"redis://{host}:{port}", timeout=0.3).lock("default")
        proxy.trickle(0.1)
        for _ in range(4):
            with pytest.raises(StoreUnavailable, match="within 0.3 s"):
                lock.get()
        eventually(lambda: waiting() <= before, 5, what="the threads ended, though answers still trickle")
    lock.close()


def test_what_waits_for_a_name_is_not_done_late(
    server: RedisServer, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up has no timeout. When the answer comes, whoever wanted to write has gone, and nothing is written."""
    before, answer, look_up = waiting(), threading.Event(), socket.getaddrinfo
    lock = backend_of(server, 0.3).lock("default")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: (answer.wait(60), look_up(*args, **kwargs))[1])
        with pytest.raises(StoreUnavailable, match=r"within 0\.3 s"):
            lock.create(sample_record())
        assert len(waiting() - before) == 1
        answer.set()
        eventually(lambda: waiting() <= before, what="the thread ended")
    assert raw.get(RECORD) is None
    lock.close()


def test_a_lock_that_nobody_closes_leaves_no_thread(server: RedisServer) -> None:
    """Its thread ends with it."""
    before = waiting()
    lock = backend_of(server).lock("nobody's")
    with suppress(RecordNotFound):
        lock.get()
    assert len(waiting() - before) == 1
    del lock
    gc.collect()
    eventually(lambda: waiting() <= before, what="the thread ended")


def test_a_forked_child_uses_no_connection_of_its_parents(server: RedisServer, raw: redis.Redis) -> None:
    """It opens its own, and does not wait for a thread that it does not have."""
    program = f"""
import os, sys
from celery_leader.backends import open_backend
lock = open_backend({server.url!r}, timeout=5).lock("default")
mine = lock.get()
child = os.fork()
if child == 0:
    os._exit(0 if lock.get() == mine else 1)
status = os.waitpid(child, 0)[1]
sys.exit(status or lock.get() != mine)
"""
    lock = backend_of(server).lock("default")
    lock.create(sample_record())
    before = raw.info("stats")["total_connections_received"]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=60, check=False)
    assert done.returncode == 0
    assert raw.info("stats")["total_connections_received"] == before + 2
    lock.close()


def test_a_server_that_is_away_is_no_answer(own_server: RedisServer) -> None:
    """Not "not found"; and when it comes, the same objects work."""
    own_server.stop()
    backend = backend_of(own_server)
    lock, ledger = backend.lock("default"), backend.ledger("default")
    for call in (lock.get, lambda: lock.create(sample_record()), lambda: ledger.open(1), backend.check):
        with pytest.raises(StoreUnavailable, match="did not answer"):
            call()
    own_server.start()
    with pytest.raises(RecordNotFound):
        lock.get()
    assert dict(ledger.open(1)) == {}
    backend.check()
    lock.close()
    ledger.close()


@pytest.mark.parametrize("empty", [False, True])
def test_a_restarted_server_is_used_again(own_server: RedisServer, empty: bool) -> None:
    """Connections are made anew, and scripts that it forgot are sent again."""
    lock = backend_of(own_server).lock("default")
    stored = lock.create(sample_record())
    own_server.restart(empty=empty)
    with suppress(StoreUnavailable, RecordNotFound):  # the old connection may be noticed to be gone only now
        lock.get()
    if empty:
        with pytest.raises(RecordConflict):
            lock.update(sample_record(), stored)
        assert lock.create(sample_record()).record == sample_record()
    else:
        assert lock.update(sample_record(holder_identity="b"), stored).record.holder_identity == "b"
    lock.close()


def test_a_hung_server_holds_no_call_longer_than_it_may(own_server: RedisServer) -> None:
    """With a connection and without one, for each call; and waiting ends in time as well."""
    timeout = 1.0
    backend = backend_of(own_server, timeout)
    connected, ledger, fresh = backend.lock("default"), backend.ledger("default"), backend.lock("default")
    stored = connected.create(sample_record())
    ledger.open(1)
    calls: list[Callable[[], object]] = [
        lambda: connected.update(sample_record(), stored),
        lambda: ledger.claim(1, [sample_claim()]),
        fresh.get,
        connected.get,
        lambda: connected.create(sample_record()),
        backend.check,
    ]
    own_server.pause()
    try:
        for call in calls:
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call()
            assert time.monotonic() - begun < timeout + 0.3
        begun = time.monotonic()
        fresh.wait(0.2)
        assert time.monotonic() - begun < 0.5
    finally:
        own_server.resume()
    assert connected.get().record == sample_record()
    for each in (connected, ledger, fresh):
        each.close()


def test_notifications_come_back_after_a_restart(own_server: RedisServer) -> None:
    """A listener that lost its server subscribes again."""
    backend = backend_of(own_server)
    leader, follower = backend.lock("default"), backend.lock("default")
    follower.wait(0.01)
    own_server.restart(empty=True)
    heard = threading.Event()

    def listen() -> None:
        follower.wait(60)
        heard.set()

    threading.Thread(target=listen, daemon=True).start()

    def change() -> bool:
        with suppress(StoreUnavailable):
            try:
                stored = leader.create(sample_record())
            except RecordConflict:
                stored = leader.get()
            stored = leader.update(sample_record(holder_identity=""), stored)
            leader.update(sample_record(holder_identity="b"), stored)
        return heard.wait(0.2)

    eventually(change, timeout=20)
    leader.close()
    follower.close()


def listening() -> set[threading.Thread]:
    """The threads that listen."""
    return {thread for thread in threading.enumerate() if thread.name == "celery-leader-listener"}


def subscribers(client: redis.Redis) -> int:
    """How many hear of the election ``default``."""
    return dict(client.pubsub_numsub("celery-leader:{default}:changes"))[b"celery-leader:{default}:changes"]


def test_a_listener_ends_with_its_lock(own_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Its thread and its connection, at once and in silence; a later wait listens again."""
    before = listening()
    lock = backend_of(own_server).lock("default")
    with redis.Redis.from_url(own_server.url) as client, caplog.at_level(logging.INFO):
        for _ in range(2):
            lock.wait(0.01)
            eventually(lambda: subscribers(client) == 1)
            lock.close()
            eventually(lambda: listening() <= before, 1, what="the listener's thread ended")
            eventually(lambda: subscribers(client) == 0, 1)
    assert not caplog.records


def test_a_listener_ends_with_its_lock_though_the_server_hangs(own_server: RedisServer) -> None:
    """One that subscribed, and one that is only about to; neither is waited for."""
    before = listening()
    backend = backend_of(own_server, 20.0)
    listener, late = backend.lock("default"), backend.lock("default")
    with redis.Redis.from_url(own_server.url) as client:
        listener.wait(0.01)
        eventually(lambda: subscribers(client) == 1)
    own_server.pause()
    try:
        late.wait(0.2)
        assert len(listening() - before) == 2
        begun = time.monotonic()
        listener.close()
        late.close()
        assert time.monotonic() - begun < 1
        eventually(lambda: listening() <= before, 2, what="the listeners' threads ended")
    finally:
        own_server.resume()


def test_the_system_looks_after_idle_connections(redis_server: RedisServer) -> None:
    """A server whose machine is gone sends nothing; a listener would wait for ever."""
    opened: list[socket.socket] = []
    with RedisClient(parse(redis_server.url, 5.0, {})).subscription("news", lambda c: opened.append(c._sock)):
        (used,) = opened
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        wanted = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [used.getsockopt(socket.IPPROTO_TCP, option) for option in wanted] == [30, 10, 3]
