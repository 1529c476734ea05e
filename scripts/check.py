"""Run the checks named, all of them even when one fails, and end with status 1 if any did.

    python3 scripts/check.py [--only lowest|highest] lint tests quick bases chaos

lint: ruff, mypy and import-linter, once, with the newest tools. tests: pytest without the tests of the other three.
quick and chaos: tests that start real workers and harm them, each case once; tests/chaos/shares.py tells which is quick
and runs on the highest supported versions, and which of the others run on which. bases: the schedulers of other
packages, led by ours, on the newest versions that these admit; django-celery-beat's on the lowest as well.

All else runs on the lowest and on the highest supported versions, one after the other: side by side, on two cores, they
would only measure each other. The environments are made side by side, and so are the parts of lint.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
# More processes than the two cores of CI: tests wait for servers and clocks two fifths of their time, chaos tests most.
SHARED = [*PYTEST, "--dist", "loadgroup", "-n"]
CHAOS = [*SHARED, "6", "-m", "chaos and not bases", "--timeout", "300"]
SHARE = [*CHAOS, "-p", "tests.chaos.shares", "tests/chaos", "--share"]
PHASES = {
    "tests": [*SHARED, "3", "-m", "not chaos and not bases"],
    "quick": [*SHARE, "quick"],
    "bases": [*SHARED, "3", "-m", "bases", "--ds", "tests.beat.bases.settings"],
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


def start(python: str, arguments: list[str], output: int | None = None) -> subprocess.Popen[str]:
    """Start one check with *python*, with the tools of its environment on the path."""
    environment = {**os.environ, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(
        [python, *arguments], cwd=ROOT, env=environment, stdout=output, stderr=output and subprocess.STDOUT, text=True
    )


def run(title: str, check: subprocess.Popen[str]) -> bool:
    """Wait for one check, and show what it printed; whether it passed."""
    print(f"\n=== {title}", flush=True)
    began = time.monotonic()
    print(check.communicate()[0] or "", end="", flush=True)
    # pytest's 5 is "no test was run": nothing was proved, so it counts as failed like any other status but 0.
    if check.returncode:
        print(f"=== {title}: FAILED with status {check.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    return check.returncode == 0


def lint(python: str) -> list[str]:
    """Run the parts of lint side by side; the titles of those that failed."""
    checks = {title: start(python, arguments, subprocess.PIPE) for title, arguments in LINT.items()}
    return [title for title, check in checks.items() if not run(title, check)]


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

    planned = {(phase, name): arguments for phase in phases for name, arguments in runs(phase, sets).items()}
    linted = ["highest"] if "lint" in options.checks else []

    failed = []
    with ThreadPoolExecutor() as pool:
        names = dict.fromkeys([*linted, *(name for _, name in planned)])
        pythons = {name: pool.submit(prepare, "environment.py", name) for name in names}
        services = pool.submit(prepare, "services.py") if phases else None
        if linted:
            failed += lint(pythons["highest"].result())
        if services:
            services.result()
        for (phase, name), arguments in planned.items():
            title = f"{phase} in the environment {name!r}"
            if not run(title, start(pythons[name].result(), arguments)):
                failed.append(title)
    if failed:
        sys.exit(f"\ncheck: FAILED: {', '.join(failed)}")


if __name__ == "__main__":
    main()
