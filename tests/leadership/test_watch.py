"""Whoever takes part in no election sees all the same who leads, and checks go on whatever one of them raises."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.exceptions import RecordNotFound, StoreUnavailable
from celery_leader.leadership.watch import LeaderFromOutside, Watch
from celery_leader.testing import ScriptedLock, sample_record
from tests.waiting import eventually

LEADER = sample_record(holder_identity="w@a/1/b", lease_duration=15.0)
NOBODY = sample_record(holder_identity="")


def stored(version: int, record: ElectionRecord = LEADER) -> StoredRecord:
    """Return a record as its store holds it after *version* writes."""
    return StoredRecord(record, version)


def looks(*answers: object, each: float = 10.0) -> list[str | None]:
    """Return what is seen, look by look, *each* so many seconds after the one before."""
    outside = LeaderFromOutside(ScriptedLock([("get", answer) for answer in answers]))
    return [outside.look(1000 + number * each) for number in range(len(answers))]


def test_a_record_that_changes_has_a_leader() -> None:
    """One look can't tell."""
    assert looks(stored(1), stored(2), stored(2), stored(3)) == [None, "w@a/1/b", None, "w@a/1/b"]


def test_a_record_that_stays_the_same_for_its_lease_has_none() -> None:
    """However new its times are: they are by another machine's clock."""
    assert looks(stored(1), stored(1), stored(1), stored(2)) == [None, None, "", "w@a/1/b"]


def test_a_vacant_record_has_none() -> None:
    """It says so itself, at the first look, and so does one that is not there. Then a holder is a new one."""
    assert looks(stored(1, NOBODY), RecordNotFound("x"), stored(2)) == ["", "", "w@a/1/b"]


def test_a_silent_store_tells_nothing() -> None:
    """Neither that somebody leads nor that nobody does."""
    down = StoreUnavailable("x")
    assert looks(down, stored(1), down, stored(1), stored(1)) == [None, None, None, "", ""]


def test_the_age_is_that_of_the_same_record() -> None:
    """A record of another holder begins anew."""
    other = replace(LEADER, holder_identity="w@b/2/c")
    assert looks(stored(1), stored(1), stored(2, other), stored(2, other)) == [None, None, "w@b/2/c", None]


def test_a_check_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Each round runs all of them, and the watch ends when it is told to."""
    rounds: list[float] = []

    def fail(now: float) -> None:
        raise RuntimeError("x")

    watch = Watch([fail, rounds.append], period=0.01)
    watch.start()
    eventually(lambda: len(rounds) > 2)
    watch.stop()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "celery-leader-watch"])
    assert "A check for wrong states failed" in caplog.text
    assert rounds == sorted(rounds)


def test_nothing_to_check_needs_no_thread() -> None:
    """Most workers have nothing."""
    Watch([]).start()
    assert not [t for t in threading.enumerate() if t.name == "celery-leader-watch"]
