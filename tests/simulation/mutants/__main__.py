# ruff: noqa: T201  # it is a command
"""``python -m tests.simulation.mutants [NAME…]``: put each fault in place and tell which seed or test noticed it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.simulation.mutants import MUTANTS, NO_PLACE
from tests.simulation.seeds import simulate

ROOT = Path(__file__).parents[3]
#: Seeds that a mutant must survive to have survived.
SEEDS = 300
#: Characters of a verdict that tell enough.
LONGEST = 120


def main() -> None:
    """Try the mutants of the command line, all without one; status 1 when one survives."""
    names = sys.argv[1:] or list(MUTANTS)
    survived = 0
    # A process for each: a fault that is in place stays there.
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for name, killer, took in pool.imap(_try, names):
            survived += not killer
            verdict = f"killed by {killer}" if killer else "SURVIVED"
            print(f"{name}: {verdict} ({took:.1f} s)\n    {MUTANTS[name].story}", flush=True)
    for name, why in NO_PLACE.items() if names == list(MUTANTS) else ():
        print(f"{name}: does not apply\n    {why}")
    sys.exit(survived > 0)


def _try(name: str) -> tuple[str, str, float]:
    begun = time.monotonic()
    mutant = MUTANTS[name]
    killer = _failing_test(name, mutant.killer) if mutant.killer else _failing_seed(name)
    return name, killer, time.monotonic() - begun


def _failing_seed(name: str) -> str:
    """Return which seed fails and why, "" when none does."""
    logging.disable(logging.CRITICAL)
    MUTANTS[name].apply()
    for seed in range(SEEDS):
        try:
            simulate(seed)
        except AssertionError as violation:
            return str(violation).partition("\n")[0][:LONGEST]
    return ""


def _failing_test(name: str, tests: str) -> str:
    """Return the test of *tests* that fails first, "" when all pass."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", tests],
        cwd=ROOT, env={**os.environ, "CELERY_LEADER_MUTANT": name},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return failed[0] if failed and done.returncode == 1 else ""


if __name__ == "__main__":
    main()
