"""What is known to differ from Celery's beat is told to people and to the command alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]


def test_the_reference_names_each_difference() -> None:
    """With the same reason and the same tests as the list that ``make compatibility`` reads."""
    import tomllib  # Python 3.11

    listed: dict[str, set[str]] = {}
    for differences in tomllib.loads(Path(__file__).with_name("differences.toml").read_text()).values():
        for each in differences:
            names = {test.partition("::")[2].partition("[")[0] for test in each["tests"]}
            listed.setdefault(each["reason"], set()).update(names)
    rows = (ROOT / "docs" / "reference" / "compatibility.md").read_text().partition("## Differences")[2].splitlines()
    cells = [row.strip("|").split("|") for row in rows if row.startswith("| ")]
    told = {reason.strip(): set(re.findall(r"`(test_\w+)`", tests)) for reason, *_, tests in cells[1:]}
    assert told == listed
