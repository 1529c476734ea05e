"""Values within what a record may hold that no sane elector writes: named, and cured by the record's deletion."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

import pytest

from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.election.limits import LONGEST, TOO_MANY
from celery_leader.election.observation import SANE_LEASE
from tests.election.stage import CONFLICT, LEASE, ME, NONE, OK, Stage, create, get, held, update

GREATEST = TOO_MANY - 1


@pytest.mark.parametrize("lease", [LONGEST, SANE_LEASE + 1])
def test_a_deleted_record_with_an_absurd_lease_holds_nobody_back(lease: float) -> None:
    """Longer than a candidate's own lease: who leads elsewhere has that, or puts its record back."""
    stage = Stage()
    assert not stage.attempt(get(held(lease=lease)))
    assert not stage.attempt(get(NONE), wait=LEASE - 1)
    assert stage.attempt(get(NONE), create(OK), wait=1)
    assert stage.written.fencing_token > 5


@pytest.mark.parametrize(("own", "lease"), [(LEASE, 6 * LEASE), (LEASE, SANE_LEASE), (2 * SANE_LEASE, 2 * SANE_LEASE)])
def test_a_deleted_record_with_a_sane_lease_is_waited_out(own: float, lease: float) -> None:
    """An hour, or one's own lease if that is longer: a vanished record is not a vacant one."""
    stage = Stage(lease_duration=own)
    assert not stage.attempt(get(held(lease=lease)))
    assert not stage.attempt(get(NONE), wait=lease - 1)
    assert stage.attempt(get(NONE), create(OK), wait=1)


def test_an_absurd_lease_counts_while_the_record_is_there() -> None:
    """Its holder may have it configured. Only an operator can tell."""
    stage = Stage()
    assert not stage.attempt(get(held(lease=LONGEST)))
    assert not stage.attempt(get(held(lease=LONGEST)), wait=LONGEST - 1)
    assert stage.attempt(get(held(lease=LONGEST)), update(OK), wait=1)


def test_an_absurd_lease_is_named_once_with_its_cure(caplog: pytest.LogCaptureFixture) -> None:
    """Not at each renewal."""
    stage = Stage()
    for version in range(3):
        assert not stage.attempt(get(held("a\x1b[31m", lease=LONGEST, version=version)))
    assert not stage.attempt(get(held(lease=SANE_LEASE, version=9)))
    (told,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert "316224000" in told
    assert "delete the record" in told
    assert stage.lock.describe() in told
    assert told.isprintable()


def test_a_token_without_a_successor_is_damage(caplog: pytest.LogCaptureFixture) -> None:
    """It is named with its cure, and nothing is written over it."""
    stage = Stage()
    for _ in range(2):
        assert not stage.attempt(get(held("", token=GREATEST)))
        assert not stage.attempt(get(held("", token=GREATEST)))
    (told,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert str(GREATEST) in told
    assert "delete the record" in told.lower()


def test_a_deletion_cures_those_who_remember_a_token_without_a_successor() -> None:
    """The next one is the wall clock's, as it is for who starts anew."""
    stage = Stage()
    assert not stage.attempt(get(held(token=GREATEST)))
    assert stage.attempt(get(NONE), create(OK), wait=LEASE)
    assert stage.written.fencing_token == int(stage.clock.utcnow().timestamp() * 1000)
    assert stage.attempt(update(OK), wait=1)


def test_a_great_token_that_has_a_successor_is_counted_on_from() -> None:
    """Deleted or not: tokens never go back."""
    for calls in ([get(held("", token=GREATEST - 1)), update(OK)], [get(NONE), create(OK)]):
        stage = Stage()
        assert not stage.attempt(get(held(token=GREATEST - 1)))
        assert stage.attempt(*calls, wait=LEASE)
        assert stage.written.fencing_token == GREATEST


def test_transitions_stand_still_at_their_limit() -> None:
    """They are for people: nobody is kept from leading by them."""
    stage = Stage()
    record = ElectionRecord("", 1.0, leader_transitions=GREATEST, fencing_token=1)
    assert stage.attempt(get(StoredRecord(record, 1)), update(OK))
    assert stage.written.leader_transitions == GREATEST


def test_a_renewal_leaves_times_that_it_did_not_write_alone() -> None:
    """The earliest and the latest that a record may hold are no trouble."""
    for time in (datetime(1970, 1, 1, tzinfo=timezone.utc), datetime(9998, 12, 31, tzinfo=timezone.utc)):
        stage = Stage()
        assert stage.attempt(get(NONE), create(OK))
        mine = StoredRecord(ElectionRecord(ME, LEASE, time, time, 0, stage.written.fencing_token), "edited")
        assert stage.attempt(update(CONFLICT), get(mine), update(OK))
        assert stage.written.acquire_time == time
