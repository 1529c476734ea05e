"""Whatever stands in a store: nobody fails, nobody spins, and what is deleted is cured."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from celery_leader.backends import open_backend
from celery_leader.election import ElectionConfig, ElectionRecord, LeaderElector, StoredRecord
from celery_leader.election.observation import SANE_LEASE
from celery_leader.exceptions import RecordConflict, RecordDamaged, RecordNotFound
from celery_leader.testing import FakeClock, sample_claim

LEASE, DEADLINE, RETRY = 15.0, 10.0, 2.0

# -- what stands there -------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, -1, 1e-9, 15, 3600, 3601, 1e308, 2**53 - 2, 2**53 - 1, 2**53, 2**63 - 1, 2**64, 10**400]),
)
TEXTS = st.one_of(
    st.text(st.characters()),  # halves of surrogate pairs, too
    st.sampled_from(
        ["", "a@b/1/c", "\x1b[31m", "x" * 70_000, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z", "1e9"]
    ),
    st.integers().map(str),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
FIELDS = ("holder_identity", "lease_duration", "acquire_time", "renew_time", "leader_transitions", "fencing_token")
RECORDS = st.one_of(
    st.binary(max_size=200),
    st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text()), VALUES).map(
        lambda values: json.dumps(values).encode()
    ),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=2).map(
        lambda changes: json.dumps({**ElectionRecord("ghost/1/x", 15.0, fencing_token=5).to_json(), **changes}).encode()
    ),
    st.sampled_from([b"", b"[" * 60_000, b'{"a":' * 10_000, b"\xff", b"9" * 10_000, b"null"]),
)
MICROSECONDS = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 1_763_888_400_654_321, 221_845_392_000_000_000, 253_402_300_799_999_999, 10**30, 10**5000]),
)
CLAIMS = st.one_of(
    st.binary(max_size=100),
    st.tuples(
        MICROSECONDS, st.sampled_from("0127"), MICROSECONDS, st.integers(), st.integers(-3, 60), st.text(max_size=60)
    ).map(lambda parts: "|".join(_digits(part) for part in parts).encode(errors="replace")),
)
QUIETLY = settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def _digits(part: object) -> str:
    return (
        f"{part:d}"
        if isinstance(part, int) and abs(part) < 10**4000
        else "9" * 5000
        if isinstance(part, int)
        else str(part)
    )


# -- the record --------------------------------------------------------------------------------------------------


class RawLock:
    """A lock that keeps bytes, as Redis' does, and into which anybody writes."""

    def __init__(self) -> None:
        self.raw: bytes | None = None
        self.calls = self._revision = 0

    def get(self) -> StoredRecord:
        self.calls += 1
        if self.raw is None:
            raise RecordNotFound("none")
        try:
            return StoredRecord(ElectionRecord.from_json(self.raw), self.raw)
        except ValueError as error:
            raise RecordDamaged(str(error)) from error

    def create(self, record: ElectionRecord) -> StoredRecord:
        return self._swap(record, None)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        return self._swap(record, previous.version)

    def _swap(self, record: ElectionRecord, seen: bytes | None) -> StoredRecord:
        self.calls += 1
        self._revision += 1
        if self.raw != seen:
            raise RecordConflict("changed")
        self.raw = json.dumps({**record.to_json(), "revision": self._revision}).encode()
        return StoredRecord(record, self.raw)

    def describe(self) -> str:
        return "bytes"


class Candidate:
    """An elector that is stepped when its time has come."""

    def __init__(self, name: str, lock: RawLock, clock: FakeClock) -> None:
        config = ElectionConfig("default", name, LEASE, DEADLINE, RETRY)
        self.elector = LeaderElector(config, lock, clock=clock, random_source=random.Random(name))  # type: ignore[arg-type]
        self.due = clock.monotonic()


def let_pass(seconds: float, clock: FakeClock, candidates: list[Candidate]) -> None:
    """Let *seconds* go by; each candidate steps when it is due."""
    end = clock.monotonic() + seconds
    while (next_one := min(candidates, key=lambda each: each.due)).due < end:
        clock.advance(max(0.0, next_one.due - clock.monotonic()))
        next_one.due = clock.monotonic() + next_one.elector.step()
    clock.advance(end - clock.monotonic())


@QUIETLY
@given(st.lists(st.tuples(st.floats(0, 3 * LEASE), RECORDS), min_size=1, max_size=5))
@example([(1.0, ElectionRecord("ghost", 1e-9, fencing_token=2**53 - 1))])
def test_no_record_ends_a_candidate_or_lets_it_spin(story: list[tuple[float, bytes | ElectionRecord]]) -> None:
    """Three candidates, and somebody who writes into their record. Deleted, it holds nobody back."""
    lock, clock = RawLock(), FakeClock()
    candidates = [Candidate(name, lock, clock) for name in ("a", "b", "c")]
    begun = clock.monotonic()
    for wait, raw in story:
        let_pass(wait, clock, candidates)
        lock.raw = raw if isinstance(raw, bytes) else json.dumps(raw.to_json()).encode()
    let_pass(2 * LEASE, clock, candidates)
    lock.raw = None
    let_pass(SANE_LEASE + LEASE + 2.2 * RETRY, clock, candidates)
    assert [each.elector.is_leader() for each in candidates].count(True) == 1
    passed = clock.monotonic() - begun
    assert lock.calls <= 3 * (3 * passed / RETRY + 20)


@pytest.fixture
def raw(redis_server: Any) -> Iterator[redis.Redis]:
    """A client of an empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client


@pytest.mark.redis
@QUIETLY
@given(value=RECORDS)
def test_a_lock_reads_a_record_or_says_that_it_is_damaged(raw: redis.Redis, redis_server: Any, value: bytes) -> None:
    """And nothing else. What it says is short and harmless, and the cure cures."""
    lock = open_backend(redis_server.url).lock("default")
    raw.set("celery-leader:{default}:record", value)
    complaint = ""
    try:
        assert lock.update(ElectionRecord("me", 15.0, fencing_token=6), lock.get()).record.fencing_token == 6
    except RecordDamaged as error:
        complaint = str(error)
    assert complaint.isprintable()
    assert len(complaint) < 600
    raw.delete("celery-leader:{default}:record")
    lock.create(ElectionRecord("me", 15.0, fencing_token=1))
    lock.close()


# -- the ledger --------------------------------------------------------------------------------------------------


@pytest.mark.redis
@QUIETLY
@given(
    rows=st.dictionaries(
        st.sampled_from([b"entry:a", b"entry:b", b"entry:\xff", b"entry:", b"\xff"]), CLAIMS, max_size=6
    )
)
def test_a_ledger_reads_its_claims_whatever_stands_beside(
    raw: redis.Redis, redis_server: Any, rows: dict[bytes, bytes]
) -> None:
    """And takes others in the place of those that can't be read."""
    key, ledger = "celery-leader:{default}:ledger", open_backend(redis_server.url).ledger("default")
    raw.delete(key)
    raw.hset(key, mapping={b"x": b"y", **rows})
    found = ledger.open(2**52)
    good = sample_claim("good")
    assert list(ledger.claim(2**52, [good])) == [True]
    assert dict(ledger.open(2**52)) == {**found, "good": good}
    ledger.close()
