"""Elections in a real Redis: the contracts, and all that goes wrong between here and there."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from importlib import resources
from typing import Any

import pytest
import redis

from celery_leader.backends import open_backend
from celery_leader.backends.redis import RedisBackend
from celery_leader.exceptions import (
    ConfigurationError,
    LockUnavailable,
    RecordConflict,
    RecordDamaged,
    RecordNotFound,
)
from celery_leader.testing import (
    LedgerContract,
    LockContract,
    NetworkedLedgerContract,
    NetworkedLockContract,
    sample_claim,
    sample_record,
)
from tests.servers import HOST, RedisServer
from tests.waiting import eventually

pytestmark = pytest.mark.redis

RECORD = "celery-leader:{default}:record"
LEDGER = "celery-leader:{default}:ledger"


def backend_of(server: RedisServer, timeout: float = 5.0) -> RedisBackend:
    """Return the backend in *server*."""
    backend = open_backend(server.url, timeout=timeout)
    assert isinstance(backend, RedisBackend)
    return backend


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client for what other programs do, on an empty server."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that the test may harm."""
    with RedisServer() as server:
        yield server


class OfRedis:
    """Makes locks and ledgers in the session's server, and closes them at the end."""

    final_requests = dict.fromkeys(("create", "renew", "takeover", "claim"), b"EVALSHA")

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer, raw: redis.Redis) -> Iterator[None]:
        self.server, self.raw = redis_server, raw
        for name in ("swap", "ledger"):  # a server that doesn't know them would be sent a second request
            raw.script_load(resources.files("celery_leader.backends.redis").joinpath(f"{name}.lua").read_text())
        with ExitStack() as self.made:
            yield

    def address(self) -> tuple[str, int]:
        return HOST, self.server.port

    def elsewhere(self) -> Callable[[str], Any]:
        return partial(make_there, self.made_kind, self.server.url)

    def make(self, election: str = "default", *, url: str = "", timeout: float = 5.0) -> Any:
        made = make_there(self.made_kind, url or self.server.url, election, timeout)
        self.made.callback(made.close)
        return made

    def make_through(self, address: tuple[str, int], timeout: float, election: str = "default") -> Any:
        return self.make(election, url=f"redis://{address[0]}:{address[1]}", timeout=timeout)

    def lose_data(self) -> None:
        self.raw.flushall()


def make_there(kind: str, url: str, election: str, timeout: float = 30.0) -> Any:
    """Make a lock or a ledger, in any process."""
    return getattr(open_backend(url, timeout=timeout), kind)(election)


class TestRedisLock(OfRedis, LockContract, NetworkedLockContract):
    """RedisLock."""

    made_kind = "lock"
    tells_of_changes = True
    make_lock, make_lock_through = OfRedis.make, OfRedis.make_through


class TestRedisLedger(OfRedis, LedgerContract, NetworkedLedgerContract):
    """RedisLedger."""

    made_kind = "ledger"
    make_ledger, make_ledger_through = OfRedis.make, OfRedis.make_through


@pytest.mark.parametrize(
    "value",
    [
        b"not json",
        b"\xff\xfe",
        b"",
        b"[]",
        b"{}",
        b'{"holder_identity": 5, "lease_duration": 15, "fencing_token": "1"}',
        b'{"holder_identity": "a", "lease_duration": -1, "fencing_token": "1"}',
        b'{"holder_identity": "a", "lease_duration": 15, "fencing_token": "-4"}',
        b'{"holder_identity": "a", "lease_duration": 15, "fencing_token": []}',
        b'{"holder_identity": "a", "lease_duration": 15, "fencing_token": "1", "renew_time": "noon"}',
        b'{"holder_identity": "a", "lease_duration": NaN, "fencing_token": "1"}',
    ],
)
def test_a_damaged_record_is_told_of_and_left_alone(redis_server: RedisServer, raw: redis.Redis, value: bytes) -> None:
    """The message names the key, what is wrong and the cure; no call overwrites it."""
    raw.set(RECORD, value)
    lock = backend_of(redis_server).lock("default")
    with pytest.raises(RecordDamaged, match=r"celery-leader:\{default\}:record.*redis-cli DEL"):
        lock.get()
    with pytest.raises(RecordConflict):
        lock.create(sample_record())
    assert raw.get(RECORD) == value
    lock.close()


def test_a_key_of_another_type_is_told_of_and_left_alone(redis_server: RedisServer, raw: redis.Redis) -> None:
    """Somebody else's list stays a list."""
    raw.rpush(RECORD, "mine")
    raw.rpush(LEDGER, "mine")
    backend = backend_of(redis_server)
    lock, ledger = backend.lock("default"), backend.ledger("default")
    for call in (lock.get, lambda: lock.create(sample_record()), lambda: ledger.open(1)):
        with pytest.raises(RecordDamaged, match="another type"):
            call()
    assert raw.lrange(RECORD, 0, -1) == raw.lrange(LEDGER, 0, -1) == [b"mine"]
    lock.close()
    ledger.close()


def test_a_damaged_claim_harms_no_other(
    redis_server: RedisServer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and counts for nothing; the rest is read, and the entry can be claimed."""
    ledger = backend_of(redis_server).ledger("default")
    ledger.open(1)
    ledger.claim(1, [sample_claim("good", 1)])
    raw.hset(LEDGER, "entry:bad", "rubbish")
    assert set(ledger.open(1)) == {"good"}
    assert "'bad'" in caplog.text
    assert list(ledger.claim(1, [sample_claim("bad", 1)])) == [True]
    ledger.close()


def test_the_record_has_no_ttl(redis_server: RedisServer, raw: redis.Redis) -> None:
    """Time does not end it, and no eviction of volatile keys does."""
    lock = backend_of(redis_server).lock("default")
    lock.create(sample_record())
    assert raw.ttl(RECORD) == -1
    lock.close()


def test_prefixes_keep_deployments_apart(redis_server: RedisServer, raw: redis.Redis) -> None:
    """And braces keep an election's keys on one node of a cluster."""
    lock = open_backend(redis_server.url, prefix="shop").lock("default")
    lock.create(sample_record())
    assert raw.keys() == [b"shop:{default}:record"]
    lock.close()


def test_a_server_that_is_away_is_no_answer(own_server: RedisServer) -> None:
    """Not "not found"; and when it comes, the same objects work."""
    own_server.stop()
    backend = backend_of(own_server)
    lock, ledger = backend.lock("default"), backend.ledger("default")
    for call in (lock.get, lambda: lock.create(sample_record()), lambda: ledger.open(1), backend.check):
        with pytest.raises(LockUnavailable, match="did not answer"):
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
    with suppress(LockUnavailable, RecordNotFound):  # the old connection may be noticed to be gone only now
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
            with pytest.raises(LockUnavailable):
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


def test_hints_come_back_after_a_restart(own_server: RedisServer) -> None:
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
        with suppress(LockUnavailable):
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


def test_a_hint_takes_milliseconds(redis_server: RedisServer, raw: redis.Redis) -> None:
    """A release ends a follower's sleep long before its poll would."""
    backend = backend_of(redis_server)
    leader, follower = backend.lock("default"), backend.lock("default")
    stored = leader.create(sample_record())
    follower.wait(0.01)
    eventually(lambda: raw.pubsub_numsub("celery-leader:{default}:changes")[0][1] == 1)
    heard: list[float] = []

    def listen() -> None:
        follower.wait(30)
        heard.append(time.monotonic())

    waiter = threading.Thread(target=listen, daemon=True)
    waiter.start()
    begun = time.monotonic()
    leader.update(sample_record(holder_identity=""), stored)
    waiter.join(10)
    assert heard[0] - begun < 1
    leader.close()
    follower.close()


def test_renewals_tell_nobody(redis_server: RedisServer, raw: redis.Redis) -> None:
    """Only a change of holder is a reason to look."""
    with raw.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("celery-leader:{default}:changes")
        eventually(lambda: raw.pubsub_numsub("celery-leader:{default}:changes")[0][1] == 1)
        lock = backend_of(redis_server).lock("default")
        stored = lock.create(sample_record(holder_identity="a"))
        stored = lock.update(sample_record(holder_identity="a"), stored)
        lock.update(sample_record(holder_identity=""), stored)
        heard: list[bytes] = []

        def both() -> bool:
            if message := listener.get_message(timeout=0.1):
                heard.append(message["data"])
            return len(heard) == 2

        eventually(both)
        assert heard == [b"a", b""]
        assert listener.get_message(timeout=0.1) is None
        lock.close()


def test_no_passwords_are_shown(own_server: RedisServer) -> None:
    """Neither in descriptions nor in errors."""
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("requirepass", "another")
    host = own_server.url.partition("://")[2]
    for url in (f"redis://user:s3cret@{host}", f"redis://{host}?password=s3cret"):
        backend = open_backend(url)
        lock = backend.lock("default")
        assert "s3cret" not in backend.describe() + lock.describe()
        with pytest.raises(LockUnavailable) as caught:
            lock.get()
        assert "s3cret" not in str(caught.value)
        lock.close()


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("redis://localhost:port/0", {}, "redis://localhost:port/0"),
        ("redis://localhost/0", {"no_such_option": 1}, "no_such_option"),
        ("sentinel://localhost", {}, "master_name"),
        ("sentinel://localhost:x", {"master_name": "m"}, "sentinel://localhost:x"),
    ],
)
def test_what_can_not_work_is_refused_at_once(url: str, options: dict[str, object], said: str) -> None:
    """Before a connection is opened, with the value that is wrong."""
    with pytest.raises(ConfigurationError, match=said):
        open_backend(url, options=options)


def test_a_store_that_may_evict_the_record_is_warned_of(
    redis_server: RedisServer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Any key can go under ``allkeys-*``."""
    caplog.set_level(logging.WARNING)
    backend_of(redis_server).check()
    assert "evict" not in caplog.text
    raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        backend_of(redis_server).check()
    finally:
        raw.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy allkeys-lru" in caplog.text


def test_a_missing_module_names_the_extra() -> None:
    """``pip install 'celery-leader[redis]'``."""
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from celery_leader.backends import open_backend\n"
        "open_backend('redis://localhost')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "ConfigurationError" in result.stderr
    assert "pip install 'celery-leader[redis]'" in result.stderr
