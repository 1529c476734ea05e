"""One word for what a record says of its election, the same in the command line, in JSON and in the admin."""

from __future__ import annotations

import json

import pytest

from celery_leader.election import ElectionState, state_of
from celery_leader.election.limits import LONGEST


@pytest.mark.parametrize(
    ("age", "state"),
    [
        (-5, "leading"),
        (0, "leading"),
        (10, "leading"),
        (10.001, "late"),
        (15, "late"),
        (15.001, "expired"),
        (None, "expired"),
    ],
)
def test_a_record_that_somebody_holds_is_judged_by_its_age(age: float | None, state: str) -> None:
    """Late after two thirds of the lease, expired after all of it. One that was never renewed vouches for nobody."""
    assert state_of("me", 15.0, age).value == state
    assert state_of("", 15.0, age) is ElectionState.VACANT


@pytest.mark.parametrize("lease", [float("nan"), float("inf"), -1.0, LONGEST + 1])
def test_a_lease_that_no_elector_wrote_vouches_for_nobody(lease: float) -> None:
    """The row was damaged, or written by hand."""
    assert state_of("me", lease, 0.0) is ElectionState.EXPIRED


def test_the_longest_and_the_shortest_lease_count() -> None:
    """Zero is what a released record may have."""
    assert state_of("me", LONGEST, 1.0) is ElectionState.LEADING
    assert state_of("me", 0.0, 0.0) is ElectionState.LEADING
    assert state_of("me", 0.0, 0.1) is ElectionState.EXPIRED


def test_whoever_is_late_still_leads() -> None:
    """Its lease runs."""
    assert {state for state in ElectionState if state.is_led} == {ElectionState.LEADING, ElectionState.LATE}


def test_a_state_is_a_word_for_programs() -> None:
    """In JSON as in the class names of the admin's badges."""
    assert json.loads(json.dumps({"state": ElectionState.LATE})) == {"state": "late"}
