"""The suite notices each classic fault: worlds with the fault in place must break a rule, or a test must fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS

ROOT = Path(__file__).parents[2]

# All in one group: they share one run, which uses all cores.
pytestmark = [pytest.mark.mutants, pytest.mark.xdist_group("mutants"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    """What became of each mutant."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.mutants"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=590, check=False,
    )  # fmt: skip
    return dict(re.findall(r"^(m\w+): (.*)$", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, verdicts: dict[str, str]) -> None:
    """By a rule that a world breaks, or by a test that fails."""
    assert re.match(r"killed by (seed \d+ at|tests/)", verdicts[name]), verdicts[name]
