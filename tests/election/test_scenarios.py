"""The scenario tables of client-go, the Python client, River and our own, against the public API."""

from __future__ import annotations

import pytest

from tests.election.scenarios import CASES, Case, play


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scenario(case: Case) -> None:
    """The candidate makes exactly these calls, ends up so, and tells each change once."""
    play(case)
