"""What a store keeps: nothing is lost on the way, and what is no record is told from one."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from celery_leader.election import ElectionRecord
from celery_leader.testing import sample_record


def test_every_field_survives_the_way_through_json() -> None:
    """Microseconds, tokens beyond a double, text beyond ASCII, bytes or text (ST1)."""
    record = sample_record(holder_identity="celery@wéb/1/ж", fencing_token=2**63 - 1)
    text = json.dumps(record.to_json())
    assert ElectionRecord.from_json(text) == record
    assert ElectionRecord.from_json(text.encode()) == record
    assert ElectionRecord.from_json(json.loads(text)) == record
    assert ElectionRecord.from_json(ElectionRecord().to_json()) == ElectionRecord()


def test_times_are_kept_in_utc() -> None:
    """Whatever zone they were given in; one without a zone is UTC."""
    tokyo = timezone(timedelta(hours=9))
    record = ElectionRecord(renew_time=datetime(2026, 1, 1, 9, tzinfo=tokyo))
    assert record.to_json()["renew_time"] == "2026-01-01T00:00:00.000000+00:00"
    values = {**ElectionRecord().to_json(), "renew_time": "2026-01-01T00:00:00"}
    assert ElectionRecord.from_json(values).renew_time == datetime(2026, 1, 1, tzinfo=timezone.utc)


def test_tokens_travel_as_text() -> None:
    """Lua and JavaScript would round a number."""
    assert sample_record(fencing_token=2**53 + 1).to_json()["fencing_token"] == "9007199254740993"


def test_fields_of_a_later_version_are_ignored() -> None:
    """A rolling deploy may have written them."""
    assert ElectionRecord.from_json({**ElectionRecord().to_json(), "preferred": "x"}) == ElectionRecord()


@pytest.mark.parametrize(
    "changes",
    [
        {"holder_identity": None},
        {"holder_identity": 7},
        {"lease_duration": -1},
        {"lease_duration": "15"},
        {"lease_duration": None},
        {"lease_duration": math.nan},
        {"lease_duration": math.inf},
        {"lease_duration": True},
        {"fencing_token": "-1"},
        {"fencing_token": "x"},
        {"fencing_token": ""},
        {"fencing_token": None},
        {"fencing_token": []},
        {"fencing_token": math.inf},
        {"leader_transitions": -1},
        {"leader_transitions": 0.5},
        {"leader_transitions": math.inf},
        {"leader_transitions": math.nan},
        {"leader_transitions": "2"},
        {"acquire_time": 5},
        {"renew_time": "yesterday"},
    ],
    ids=str,
)
def test_a_damaged_record_is_told_from_a_record(changes: dict[str, Any]) -> None:
    """Always as ValueError, so that a lock needs to know no other."""
    with pytest.raises(ValueError):  # noqa: PT011  # any message will do
        ElectionRecord.from_json({**ElectionRecord().to_json(), **changes})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "{}", b"\xff", '{"holder_identity": "x"}'])
def test_what_is_no_record_is_told_from_one(text: str | bytes) -> None:
    """Another program's value under our name."""
    with pytest.raises(ValueError):  # noqa: PT011  # any message will do
        ElectionRecord.from_json(text)
