"""Run the checks named, all of them even when one fails, and end with status 1 if any did.

    python3 scripts/check.py [--only lowest|highest] lint tests quick bases chaos

lint: ruff, mypy and import-linter, once, with the newest tools. tests: pytest without the tests of the other three.
quick and chaos: tests that start real workers and harm them, each case once; tests/chaos/shares.py tells which is quick
and runs on the highest supported versions, and which of the others run on which. bases: the schedulers of other
packages, led by ours, on the newest versions that these admit; django-celery-beat's on the lowest as well.

All else runs on the lowest and on the highest supported versions, one after the other: side by side, on two cores, they
would only measure each other.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETS = ["lowest", "highest"]
LINT = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy": ["-m", "mypy", "--show-traceback"],
    "import-linter": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
}
PYTEST = ["-m", "pytest", "-q", "--durations=5"]
# Two processes for two cores; more for chaos, whose tests mostly wait.
CHAOS = [*PYTEST, "-n", "4", "--dist", "loadgroup", "-m", "chaos and not bases", "--timeout", "300"]
SHARE = [*CHAOS, "-p", "tests.chaos.shares", "tests/chaos", "--share"]
PHASES = {
    "tests": [*PYTEST, "-n", "2", "--dist", "loadgroup", "-m", "not chaos and not bases"],
    "quick": [*SHARE, "quick"],
    "bases": [*PYTEST, "-n", "2", "--dist", "loadgroup", "-m", "bases", "--ds", "tests.beat.bases.settings"],
    "chaos": SHARE,
}
# "highest" has no other package's scheduler, "lowest" has one.
BASES = {
    "lowest": [f"tests/beat/bases/test_database_{part}.py" for part in ("scheduler", "last_runs", "entries")],
    "bases": ["tests/beat/bases"],
}
# What no version can change is proved once. The last -m is the one that counts.
ONCE = {("tests", "lowest"): ["-m", "not chaos and not bases and not mutants and not once"]}


def prepare(script: str, *arguments: str) -> str:
    """Run one of our scripts; what it printed. Without what it prepares there is nothing to check."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"check: {script} {' '.join(arguments)} failed")
    return done.stdout.strip()


def run(title: str, python: str, arguments: list[str]) -> bool:
    """Run one check with *python*; whether it passed."""
    print(f"\n=== {title}", flush=True)
    began = time.monotonic()
    environment = {**os.environ, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    status = subprocess.run([python, *arguments], cwd=ROOT, env=environment, check=False).returncode
    # pytest's 5 is "no test was run": nothing was proved, so it counts as failed like any other status but 0.
    if status:
        print(f"=== {title}: FAILED with status {status} after {time.monotonic() - began:.0f} s", flush=True)
    return status == 0


def runs(phase: str, sets: list[str]) -> dict[str, list[str]]:
    """The environments in which *phase* runs for these sets of versions, and pytest's arguments in each."""
    if phase == "quick":
        return {"highest": PHASES[phase]} if "highest" in sets else {}
    if phase == "chaos":
        return {name: [*PHASES[phase], name] for name in sets}
    if phase == "bases":
        names = ["bases" if name == "highest" else name for name in sets]
        return {name: [*PHASES[phase], *BASES[name]] for name in names}
    return {name: [*PHASES[phase], *ONCE.get((phase, name), [])] for name in sets}


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description="Run the project's checks.")
    parser.add_argument("--only", choices=SETS, help="the set of versions to test on; both without it")
    parser.add_argument("checks", nargs="+", choices=["lint", *PHASES])
    options = parser.parse_args()
    sets = [options.only] if options.only else SETS
    phases = [phase for phase in PHASES if phase in options.checks]

    failed = []
    if "lint" in options.checks:
        python = prepare("environment.py", "highest")
        failed += [title for title, arguments in LINT.items() if not run(title, python, arguments)]
    if phases:
        prepare("services.py")
        for phase in phases:
            for name, arguments in runs(phase, sets).items():
                title = f"{phase} in the environment {name!r}"
                if not run(title, prepare("environment.py", name), arguments):
                    failed.append(title)
    if failed:
        sys.exit(f"\ncheck: FAILED: {', '.join(failed)}")


if __name__ == "__main__":
    main()
