"""Run the tests of Celery's beat and of other schedulers on ours, while it leads.

    python3 scripts/compatibility.py [--all] [SUITE ...]

The source distributions carry the tests; they are downloaded with pip, in the versions that the environment
`compatibility` has, and nothing of them is kept. A test that is listed in tests/compatibility/differences.toml is
expected to fail; the command fails when another fails, and when a listed one passes. `--all` expects nothing, and shows
each failure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a package's tests are run with, in the folder of its source distribution.
SUITES = {
    "celery": ["t/unit/app/test_beat.py"],
    "django-celery-beat": ["t/unit/test_schedulers.py", "--ds=t.proj.settings"],
    "celery-redbeat": ["tests/test_scheduler.py", "tests/test_entry.py"],
    "sqlalchemy-celery-beat": ["tests/test_schedulers.py"],
}
# Plugins of ours that they are run with, from tests/compatibility/.
PLUGINS = {suite: ["binding"] for suite in SUITES} | {"sqlalchemy-celery-beat": ["binding", "sqlalchemy_fixtures"]}
OPTIONS = [
    *("-q", "--tb=short", "--timeout=180", "--disable-warnings", "-p", "no:cacheprovider"),
    *("--override-ini=python_classes=test_* Test*", "--override-ini=addopts="),
]


def output(*command: str) -> str:
    """Return what *command* prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def environment() -> str:
    """Make the environment with all schedulers and what their tests need; return its Python."""
    return output(sys.executable, str(ROOT / "scripts" / "environment.py"), "compatibility")


def version(python: str, package: str) -> str:
    """Return which version of *package* the environment has."""
    return output(python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))")


def download(python: str, package: str, folder: Path) -> Path:
    """Download the source distribution of *package*; return the folder that it was unpacked to."""
    wanted = f"{package}=={version(python, package)}"
    pip = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder), wanted]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    (unpacked,) = (each for each in folder.iterdir() if each.is_dir())
    return unpacked


def run(python: str, suite: str, *, expect: bool) -> bool:
    """Run one package's tests; return whether the outcome is as listed."""
    print(f"\n=== {suite} {version(python, suite)}", flush=True)
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "compatibility")}
    if expect:
        variables["COMPATIBILITY_LIST"] = suite
    with tempfile.TemporaryDirectory() as folder:
        home = download(python, suite, Path(folder))
        plugins = [word for plugin in PLUGINS[suite] for word in ("-p", plugin)]
        command = [python, "-m", "pytest", *OPTIONS, *plugins, f"--rootdir={home}", *SUITES[suite]]
        return subprocess.run(command, cwd=home, env=variables, check=False).returncode == 0


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description="Run other packages' tests of schedulers on ours.")
    parser.add_argument("--all", action="store_true", help="expect no test to fail, and show each that does")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all of them without one")
    options = parser.parse_args()
    if unknown := set(options.suites) - SUITES.keys():
        parser.error(f"there is no suite {', '.join(sorted(unknown))}")
    python = environment()
    failed = [suite for suite in options.suites or SUITES if not run(python, suite, expect=not options.all)]
    if failed:
        sys.exit(f"\ncompatibility: not as listed in tests/compatibility/differences.toml: {', '.join(failed)}")


if __name__ == "__main__":
    main()
