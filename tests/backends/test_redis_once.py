"""What became of ticks, in a real Redis and a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celery_leader.backends import open_backend
from celery_leader.backends.redis import RedisOnceStore
from celery_leader.exceptions import RecordDamaged, StoreUnavailable
from tests.contracts.once_contract import LONG, TICK, OnceStoreContract
from tests.servers import RedisServer
from tests.waiting import eventually

pytestmark = pytest.mark.redis

KEY = f"proj:{{once}}:{TICK}"


@pytest.fixture
def once_store(server: RedisServer, raw: redis.Redis) -> Iterator[RedisOnceStore]:
    """One object."""
    once_store = open_backend(server.url, prefix="proj").once_store()
    assert isinstance(once_store, RedisOnceStore)
    yield once_store
    once_store.close()


@pytest.mark.usefixtures("raw")
class TestRedisOnceStore(OnceStoreContract):
    """RedisOnceStore."""

    @pytest.fixture(autouse=True)
    def _backend(self, server: RedisServer) -> Iterator[None]:
        self.backend = open_backend(server.url)
        self.made: list[RedisOnceStore] = []
        yield
        for once_store in self.made:
            once_store.close()

    def make_once_store(self) -> RedisOnceStore:
        self.made.append(self.backend.once_store())
        return self.made[-1]


def test_a_key_a_tick_that_ends_by_itself(once_store: RedisOnceStore, raw: redis.Redis) -> None:
    """Named after the prefix and the task's id; the server forgets it in time."""
    once_store.begin(TICK, "a", 60)
    assert 0 < raw.pttl(KEY) <= 60_000
    once_store.done(TICK, "a", 600)
    assert raw.get(KEY) == b"done"
    assert 60_000 < raw.pttl(KEY) <= 600_000
    assert raw.keys() == [KEY.encode()]


def test_a_key_of_somebody_else_is_left_alone(once_store: RedisOnceStore, raw: redis.Redis) -> None:
    """The message names it."""
    raw.lpush(KEY, "x")
    for call in (lambda: once_store.begin(TICK, "a", LONG), lambda: once_store.done(TICK, "a", LONG)):
        with pytest.raises(RecordDamaged, match=f"proj:{{once}}:{TICK}"):
            call()
    assert raw.lrange(KEY, 0, -1) == [b"x"]


def test_a_claim_without_a_ttl_ends(
    once_store: RedisOnceStore, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """No worker wrote it, so none will end it. One line names key and cure; the tick waits no longer than a run."""
    raw.set(KEY, "somebody")
    admission = once_store.begin(TICK, "a", 0.2)
    assert (admission.may_run, admission.is_done, admission.wait) == (False, False, 0.2)
    once_store.begin(TICK, "b", LONG)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{KEY} says that a tick runs, but has no TTL" in caplog.text
    assert "DEL it" in caplog.text
    eventually(lambda: once_store.begin(TICK, "a", LONG).may_run)


def test_a_server_that_is_away_gives_no_answer(own_server: RedisServer) -> None:
    """Neither "may run" nor "done"."""
    once_store = open_backend(own_server.url, timeout=0.5).once_store()
    once_store.begin(TICK, "a", LONG)
    own_server.stop()
    with pytest.raises(StoreUnavailable):
        once_store.begin(TICK, "b", LONG)
    own_server.start()
    once_store.close()
