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
    """Microseconds, the greatest token, text beyond ASCII, bytes or text (ST1)."""
    record = sample_record(holder_identity="celery@wéb/1/ж", fencing_token=2**53 - 1)
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
    """Readers whose numbers are doubles round what they compute with; text stays as it is."""
    assert sample_record(fencing_token=2**53 - 1).to_json()["fencing_token"] == "9007199254740991"


def test_fields_of_a_later_version_are_ignored() -> None:
    """A rolling deploy may have written them."""
    assert ElectionRecord.from_json({**ElectionRecord().to_json(), "preferred": "x"}) == ElectionRecord()


@pytest.mark.parametrize(
    "changes",
    [
        {"holder_identity": None},
        {"holder_identity": 7},
        {"holder_identity": "x" * 2001},
        {"deployment": 7},
        {"holder_identity": "half \ud800 a pair"},
        {"lease_duration": -1},
        {"lease_duration": "15"},
        {"lease_duration": None},
        {"lease_duration": math.nan},
        {"lease_duration": math.inf},
        {"lease_duration": True},
        {"lease_duration": 1e308},
        {"lease_duration": 10 * 366 * 86_400 + 1},
        {"lease_duration": 10**400},
        {"lease_duration": [[[[]]]]},
        {"fencing_token": "-1"},
        {"fencing_token": "x"},
        {"fencing_token": ""},
        {"fencing_token": None},
        {"fencing_token": []},
        {"fencing_token": math.inf},
        {"fencing_token": str(2**53)},
        {"fencing_token": "9" * 10_000},
        {"fencing_token": "１２"},
        {"fencing_token": "1_000"},
        {"fencing_token": True},
        {"leader_transitions": -1},
        {"leader_transitions": 2**53},
        {"leader_transitions": 0.5},
        {"leader_transitions": math.inf},
        {"leader_transitions": math.nan},
        {"leader_transitions": "2"},
        {"acquire_time": 5},
        {"renew_time": "yesterday"},
        {"renew_time": "0001-01-01T00:00:00+23:59"},
        {"renew_time": "9999-12-31T23:59:59-23:59"},
        {"acquire_time": "1969-12-31T23:59:59+00:00"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_damaged_record_is_told_from_a_record(changes: dict[str, Any]) -> None:
    """Always as ValueError, so that a lock needs to know no other. Its message is short and printable."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # any message will do
        ElectionRecord.from_json({**ElectionRecord().to_json(), **changes})
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"lease_duration": 0},
        {"lease_duration": 10 * 366 * 86_400},
        {"fencing_token": str(2**53 - 1), "leader_transitions": 2**53 - 1},
        {"fencing_token": 7},
        {"holder_identity": "𝄞" * 2000, "deployment": "\x00" * 2000},
        {"renew_time": "1970-01-01T00:00:00+00:00", "acquire_time": "9998-12-30T00:00:00-23:59"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_record_at_its_limits_is_a_record(changes: dict[str, Any]) -> None:
    """And fits into what a lock reads."""
    record = ElectionRecord.from_json({**ElectionRecord().to_json(), **changes})
    assert ElectionRecord.from_json(json.dumps(record.to_json())) == record


TEXTS = ["", "{", "[]", "null", "7", '"x"', "{}", b"\xff", '{"holder_identity": "x"}', "[" * 60_000, '{"a":' * 10_000]


@pytest.mark.parametrize(
    "text", [*TEXTS, json.dumps({**ElectionRecord().to_json(), "x": "x" * 64_000})], ids=lambda text: str(text)[:30]
)
def test_what_is_no_record_is_told_from_one(text: str | bytes) -> None:
    """Another program's value under our name."""
    with pytest.raises(ValueError):  # noqa: PT011  # any message will do
        ElectionRecord.from_json(text)
