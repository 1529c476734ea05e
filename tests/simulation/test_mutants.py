"""The suite notices each classic fault: a run of it with the fault in place must fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
QUICK = ["test_scenarios.py", "test_elector.py", "test_release.py"]
#: The quick ones first: the run ends at the first failure.
SUITE = [
    *sorted(map(str, (ROOT / "tests/election").glob("test_*.py")), key=lambda path: not path.endswith(tuple(QUICK))),
    "tests/beat",
    "tests/simulation/test_simulation.py",
]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str) -> None:
    """Some test fails, and not for want of something to run."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", *SUITE],
        cwd=ROOT, env={**os.environ, "CELERY_LEADER_MUTANT": name, "CELERY_LEADER_STRESS_SECONDS": "1"},
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    killers = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    print(f"\n{name}: {killers[0] if killers else 'SURVIVED'}")  # noqa: T201  # `make mutants` shows it
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert killers
