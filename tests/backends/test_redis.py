"""Elections in a real Redis and a real Valkey: the contracts, and all that goes wrong between here and there."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import resources
from typing import Any

import pytest
import redis

from celery_leader.backends import open_backend
from celery_leader.exceptions import (
    ConfigurationError,
    RecordConflict,
    RecordDamaged,
    StoreUnavailable,
)
from celery_leader.testing import LedgerContract, LockContract, sample_claim, sample_record
from tests.backends.made import Made, backend_of
from tests.contracts.network_contract import NetworkedLedgerContract, NetworkedLockContract
from tests.servers import HOST, RedisServer
from tests.waiting import eventually

pytestmark = pytest.mark.redis

RECORD = "celery-leader:{default}:record"
LEDGER = "celery-leader:{default}:ledger"


class OfRedis(Made):
    """Makes locks and ledgers in each of the session's servers, and closes them at the end."""

    final_requests = dict.fromkeys(("create", "renew", "takeover", "claim"), b"EVALSHA")

    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer, raw: redis.Redis) -> Iterator[None]:
        self.server, self.raw, self.url = server, raw, server.url
        for name in ("swap", "ledger"):  # a server that doesn't know them would be sent a second request
            raw.script_load(resources.files("celery_leader.backends.redis").joinpath(f"{name}.lua").read_text())
        with ExitStack() as self.made:
            yield

    def address(self) -> tuple[str, int]:
        return HOST, self.server.port

    def make_through(self, address: tuple[str, int], timeout: float, election: str = "default") -> Any:
        return self.make_at(f"redis://{address[0]}:{address[1]}", election, timeout)

    def lose_data(self) -> None:
        self.raw.flushall()


class TestRedisLock(OfRedis, LockContract, NetworkedLockContract):
    """RedisLock."""

    made_kind = "lock"
    notifies = True
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
        b'{"holder_identity": "a", "lease_duration": 1e308, "fencing_token": "1"}',
        b'{"holder_identity": "a", "lease_duration": 15, "fencing_token": "9223372036854775807"}',
        b'{"holder_identity": "a", "lease_duration": 15, "fencing_token": "%s"}' % (b"9" * 10_000),
        b'{"holder_identity": "", "lease_duration": 1, "fencing_token": 1, "renew_time": "0001-01-01T00:00:00+23:59"}',
        b'{"holder_identity": "half \\ud800", "lease_duration": 15, "fencing_token": "1"}',
        b'{"holder_identity": "\\u001b[31m\\n", "lease_duration": "\\u001b[31m\\n", "fencing_token": "1"}',
        b'{"holder_identity": "%s", "lease_duration": 15, "fencing_token": "1"}' % (b"a" * 10_000_000),
        b"[" * 60_000,
    ],
    ids=lambda value: value[:100],
)
def test_a_damaged_record_is_told_of_and_left_alone(server: RedisServer, raw: redis.Redis, value: bytes) -> None:
    """The message names the key, what is wrong and the cure; no call overwrites it."""
    raw.set(RECORD, value)
    lock = backend_of(server).lock("default")
    with pytest.raises(RecordDamaged, match=r"celery-leader:\{default\}:record.*redis-cli DEL") as caught:
        lock.get()
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
    with pytest.raises(RecordConflict):
        lock.create(sample_record())
    assert raw.get(RECORD) == value
    lock.close()


def test_a_key_of_another_type_is_told_of_and_left_alone(server: RedisServer, raw: redis.Redis) -> None:
    """Somebody else's list stays a list."""
    raw.rpush(RECORD, "mine")
    raw.rpush(LEDGER, "mine")
    backend = backend_of(server)
    lock, ledger = backend.lock("default"), backend.ledger("default")
    for call in (lock.get, lambda: lock.create(sample_record()), lambda: ledger.open(1)):
        with pytest.raises(RecordDamaged, match="another type"):
            call()
    assert raw.lrange(RECORD, 0, -1) == raw.lrange(LEDGER, 0, -1) == [b"mine"]
    lock.close()
    ledger.close()


GOOD, LATER = "1763888400654321", "221845392000000000"  # microseconds: in 2025, in the year 9000
DAMAGED_CLAIMS = {
    "not a claim": b"rubbish",
    "empty": b"",
    "no UTF-8": f"{GOOD}|1|{GOOD}|1|2|id".encode() + b"\xff",
    "due too late for a date": b"9" * 30 + f"|1|{GOOD}|1|2|id".encode(),
    "due with more digits than Python reads": b"9" * 5000 + f"|1|{GOOD}|1|2|id".encode(),
    "due after it was claimed": f"{LATER}|1|{GOOD}|1|2|id".encode(),
    "claimed in the year 9999": f"{GOOD}|1|253402300799999999|1|2|id".encode(),
    "claimed in the year 1": f"{GOOD}|1|-62135596800000000|1|2|id".encode(),
    "too many runs": f"{GOOD}|1|{GOOD}|9223372036854775807|2|id".encode(),
    "a negative number of runs": f"{GOOD}|1|{GOOD}|-1|2|id".encode(),
    "neither sent nor not": f"{GOOD}|7|{GOOD}|1|2|id".encode(),
    "an id longer than all": f"{GOOD}|1|{GOOD}|1|99|id".encode(),
    "an id of minus one": f"{GOOD}|1|{GOOD}|1|-1|id".encode(),
    "megabytes": f"{GOOD}|1|{GOOD}|1|2|id".encode() + b"x" * 1_000_000,
}


@pytest.mark.parametrize("value", DAMAGED_CLAIMS.values(), ids=DAMAGED_CLAIMS)
def test_a_damaged_claim_harms_no_other(
    server: RedisServer, raw: redis.Redis, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    """The rest is read. It is named in one line and removed, so that a new claim takes its place."""
    ledger = backend_of(server).ledger("default")
    ledger.open(1)
    ledger.claim(1, [sample_claim("good", 1)])
    raw.hset(LEDGER, "entry:bad\x1b[31m", value)
    assert dict(ledger.open(1)) == {"good": sample_claim("good", 1)}
    (told,) = [each.getMessage() for each in caplog.records]
    assert "1 damaged claim(s) removed" in told
    assert "bad\\x1b[31m" in told
    assert LEDGER in told
    assert told.isprintable()
    assert len(told) < 800
    assert list(ledger.claim(1, [sample_claim("bad\x1b[31m", 1)])) == [True]
    assert set(ledger.open(1)) == {"good", "bad\x1b[31m"}
    ledger.close()


def test_a_field_that_is_no_text_harms_no_claim(
    server: RedisServer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It is removed as an entry's, and left alone as anything else."""
    ledger = backend_of(server).ledger("default")
    ledger.open(1)
    ledger.claim(1, [sample_claim("good", 1)])
    claim = raw.hget(LEDGER, "entry:good")
    raw.hset(LEDGER, mapping={b"entry:\xff": claim, b"\xff": b"\xff"})  # type: ignore[dict-item]
    assert set(ledger.open(1)) == {"good"}
    assert "\\xff" in caplog.text
    assert set(raw.hkeys(LEDGER)) == {b"token", b"entry:good", b"\xff"}
    ledger.close()


def test_a_great_many_damaged_claims_are_one_line(
    server: RedisServer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """And no call takes longer for them."""
    ledger = backend_of(server).ledger("default")
    ledger.open(1)
    raw.hset(LEDGER, mapping={f"entry:{number}": "rubbish" for number in range(20_000)})
    assert not ledger.open(1)
    (told,) = [each.getMessage() for each in caplog.records]
    assert "20000 damaged claim(s)" in told
    assert len(told) < 800
    assert raw.hkeys(LEDGER) == [b"token"]
    ledger.close()


@pytest.mark.parametrize(
    "token",
    [b"many", b"", b"\xff\x1b[31m", b"9007199254740992", b"%d" % 2**1024, b"9" * 1_000_000],
    ids=lambda t: t[:20],
)
def test_a_damaged_token_of_a_ledger_is_told_of_and_left_alone(
    server: RedisServer, raw: redis.Redis, token: bytes
) -> None:
    """It is no newer term: a leader that stepped down for it would step down for ever. The cure cures."""
    match = r"celery-leader:\{default\}:ledger.*redis-cli HDEL 'celery-leader:\{default\}:ledger' token"
    ledger = backend_of(server).ledger("default")
    ledger.open(1)
    raw.hset(LEDGER, "token", token)
    calls: list[Callable[[], object]] = [lambda: ledger.open(2), lambda: ledger.claim(1, [sample_claim()])]
    for call in calls:
        with pytest.raises(RecordDamaged, match=match) as caught:
            call()
        assert len(str(caught.value)) < 500
    assert raw.hgetall(LEDGER) == {b"token": token}
    raw.hdel(LEDGER, "token")
    assert ledger.open(2) == {}
    ledger.close()


def test_the_record_has_no_ttl(server: RedisServer, raw: redis.Redis) -> None:
    """Time does not end it, and no eviction of volatile keys does."""
    lock = backend_of(server).lock("default")
    lock.create(sample_record())
    assert raw.ttl(RECORD) == -1
    lock.close()


def test_prefixes_keep_deployments_apart(server: RedisServer, raw: redis.Redis) -> None:
    """And braces keep an election's keys on one node of a cluster."""
    lock = open_backend(server.url, prefix="shop").lock("default")
    lock.create(sample_record())
    assert raw.keys() == [b"shop:{default}:record"]
    lock.close()


def test_a_notification_takes_milliseconds(server: RedisServer, raw: redis.Redis) -> None:
    """A release ends a follower's sleep long before its poll would."""
    backend = backend_of(server)
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


def test_a_notification_that_is_no_text_is_one_like_others(
    server: RedisServer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends a wait, and the next one is heard as well."""
    lock = backend_of(server).lock("default")
    lock.create(sample_record())
    channel = "celery-leader:{default}:changes"
    lock.wait(0.01)
    eventually(lambda: dict(raw.pubsub_numsub(channel))[channel.encode()] == 1)
    for message in (b"\xff", b"\xfe\x1b[31m", b""):
        lock.get()
        raw.publish(channel, message)
        begun = time.monotonic()
        lock.wait(30)
        assert time.monotonic() - begun < 10
    assert not caplog.records
    lock.close()


def test_renewals_tell_nobody(server: RedisServer, raw: redis.Redis) -> None:
    """Only a change of holder is a reason to look. (A name of its own: earlier tests' listeners may still be there.)"""
    with raw.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("celery-leader:{quiet}:changes")
        eventually(lambda: raw.pubsub_numsub("celery-leader:{quiet}:changes")[0][1] == 1)
        lock = backend_of(server).lock("quiet")
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
        with pytest.raises(StoreUnavailable) as caught:
            lock.get()
        assert "s3cret" not in str(caught.value)
        lock.close()


@pytest.mark.usefixtures("raw")
def test_a_query_changes_nothing_that_a_lock_relies_on(server: RedisServer) -> None:
    """A URL that was made for other programs may ask for text instead of bytes."""
    query = "decode_responses=yes&socket_timeout=100"
    lock = open_backend(f"{server.url}?{query}").lock("default")
    assert lock.create(sample_record()) == lock.get()
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
    server: RedisServer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Any key can go under ``allkeys-*``."""
    caplog.set_level(logging.WARNING)
    backend_of(server).check()
    assert "evict" not in caplog.text
    raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        backend_of(server).check()
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


def test_a_large_ledger_holds_up_nobody_else(server: RedisServer, raw: redis.Redis) -> None:
    """It is read in pages: no command of it keeps the server from others for long."""
    ledger = backend_of(server).ledger("default")
    ledger.open(1)
    claim = f"{GOOD}|1|{GOOD}|1|36|6f2f4a0e-5d0b-5c8f-9f0a-0c1e5a7d9b3eevery 10.0 s"
    for start in range(0, 100_000, 10_000):
        raw.hset(LEDGER, mapping={f"entry:{number}": claim for number in range(start, start + 10_000)})
    raw.config_set("slowlog-log-slower-than", 0)
    raw.config_set("slowlog-max-len", 10_000)
    raw.slowlog_reset()
    assert len(ledger.open(2)) == 100_000
    longest = max(command["duration"] for command in raw.slowlog_get(10_000))  # microseconds
    raw.config_set("slowlog-log-slower-than", 10_000)
    assert longest < 50_000
    ledger.close()
