"""The suite notices each classic fault: worlds with the fault in place must break a rule, or a test must fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, NO_PLACE

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.mutants


@pytest.mark.timeout(600)
def test_each_mutant_is_killed() -> None:
    """By a rule that a world breaks, or by a test that fails. All in one run, which uses all cores."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.mutants"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=590, check=False,
    )  # fmt: skip
    verdicts = dict(re.findall(r"^(m\w+): (.*)$", done.stdout, re.MULTILINE))
    assert {verdicts.pop(name, "") for name in NO_PLACE} == {"does not apply"}
    assert verdicts.keys() == MUTANTS.keys()
    survivors = [name for name, verdict in verdicts.items() if not re.match(r"killed by (seed \d+ at|tests/)", verdict)]
    assert survivors == []
    assert done.returncode == 0


def test_each_fault_of_the_list_is_here_or_has_no_place() -> None:
    """M1 to M20 of the research; what has no place says why."""
    assert {name[:3] for name in [*MUTANTS, *NO_PLACE]} >= {f"m{number:02}" for number in range(1, 21)}
    assert not {name[:3] for name in MUTANTS} & NO_PLACE.keys()


def test_a_world_without_a_fault_kills_nothing() -> None:
    """The verdict comes from the fault: what runs without one breaks no rule, and is told as a survivor."""
    script = (
        "from tests.simulation.mutants import __main__ as command, registry\n"
        "registry.MUTANTS['none'] = registry.Mutant(lambda: None, '')\n"
        "command.SEEDS = 20\n"
        "assert command._failing_seed('none') == ''\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)
