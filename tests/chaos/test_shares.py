"""Each chaos case runs in one share, and the shares meet what they promise."""

from __future__ import annotations

import pytest

from tests.chaos.shares import SETS, numbered, shares_of

FAULTS, STORES = 4, 3
CASES = [{"fault": fault, "store": store} for fault in range(FAULTS) for store in range(STORES)]


def cases_of(share: str, *, is_quick: bool, place: int = 0) -> list[dict[str, int]]:
    """Return the cases of one share."""
    shares = shares_of(place, CASES, is_quick=is_quick)
    return [case for case, found in zip(CASES, shares, strict=True) if found == share]


def test_the_quick_cases_meet_every_value() -> None:
    """As few as can do that."""
    quick = cases_of("quick", is_quick=True)
    assert [case["fault"] for case in quick] == [*range(FAULTS)]
    assert {case["store"] for case in quick} == {*range(STORES)}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("share", SETS)
def test_the_others_meet_every_value_on_each_set(place: int, share: str) -> None:
    """A Latin square: each fault and each store on each set of versions."""
    cases = cases_of(share, is_quick=False, place=place)
    assert {case["fault"] for case in cases} == {*range(FAULTS)}
    assert {case["store"] for case in cases} == {*range(STORES)}
    assert len(cases) == len(CASES) // 2


def test_tests_without_parameters_take_turns() -> None:
    """Or are quick."""
    assert [shares_of(place, [{}], is_quick=False) for place in range(3)] == [["lowest"], ["highest"], ["lowest"]]
    assert [shares_of(place, [{}], is_quick=True) for place in range(2)] == [["quick"], ["quick"]]


def test_values_are_numbered_as_they_come() -> None:
    """Whatever they are."""
    cases = [{"fault": fault, "broker": broker} for fault in ([], print) for broker in ("redis", "rabbit")]
    assert numbered(cases) == [{"fault": fault, "broker": broker} for fault in (0, 1) for broker in (0, 1)]
