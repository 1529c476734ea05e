"""Make the virtual environment `.venv/NAME` and print where its Python is.

    python3 scripts/environment.py highest|lowest|bases|compatibility|demo

`lowest` holds the oldest supported versions on the oldest Python found, `highest` the newest on the newest, `bases`
the schedulers of others that ours can lead, `compatibility` what their own tests need besides, `demo` what the example
needs. It uses venv and pip only, so that a machine
with Python, git and make is enough. An environment is made anew only when the Python or the metadata in
`pyproject.toml` has changed since (a stamp inside it remembers).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 10), (3, 13)  # the Pythons that we say we support
REQUIREMENTS = {
    "highest": ["--group", "highest", "--editable", "."],
    "lowest": ["--group", "lowest", "--editable", "."],
    "bases": ["--group", "bases", "--editable", "."],
    "compatibility": ["--group", "compatibility", "--editable", "."],
    "demo": ["--group", "demo", "--editable", "."],
}
# Asks for all that a worker and the tests need: a shim with no Python behind it, or one built without SSL, fails here.
PROBE = (
    "import ctypes, ensurepip, json, sqlite3, ssl, sys, venv;"
    "print(json.dumps([list(sys.version_info[:3]), sys.executable]))"
)

Version = tuple[int, ...]


def say(text: str) -> None:
    """Print for people: the last line of standard output is for the caller."""
    print(text, file=sys.stderr, flush=True)


def candidates() -> list[Path]:
    """Every file that may be a Python: on PATH, and where pyenv keeps its own."""
    names = ["python3", *(f"python3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1))]
    on_path = [Path(found) for name in names if (found := shutil.which(name))]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return [*on_path, *sorted(pyenv.glob("versions/*/bin/python3"))]


def interpreters() -> dict[Version, str]:
    """The working Pythons of a supported version, by version: one (the newest patch) for each minor."""
    found: dict[Version, str] = {}
    for candidate in candidates():
        answer = subprocess.run([candidate, "-c", PROBE], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            version, executable = json.loads(answer.stdout)
            if OLDEST <= tuple(version[:2]) <= NEWEST:
                found.setdefault(tuple(version), executable)
    newest_patches = {version[:2]: version for version in sorted(found)}
    return {version: found[version] for version in newest_patches.values()}


def choose(name: str) -> tuple[Version, str]:
    """The Python for the environment *name*."""
    found = interpreters()
    if not found:
        sys.exit(
            f"No Python from {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]} with venv, ensurepip, ssl and sqlite3 "
            "was found on PATH or in ~/.pyenv/versions. Install one (Debian: apt-get install python3 python3-venv)."
        )
    if name != "demo" and len(found) == 1:
        say(f"environment: only one Python found ({next(iter(found.values()))}): both sets of versions run on it.")
    version = min(found) if name == "lowest" else max(found)
    return version, found[version]


def stamp_for(name: str, version: Version, executable: str) -> str:
    """What the environment was made from; another text means that it has to be made again."""
    # The tools' settings come last in pyproject.toml, and change nothing in the environment.
    metadata = (ROOT / "pyproject.toml").read_text().partition("\n[tool.")[0]
    digest = hashlib.sha256(metadata.encode()).hexdigest()
    return json.dumps([REQUIREMENTS[name], list(version), executable, str(ROOT), digest])


def make(name: str, executable: str, home: Path) -> None:
    """Build the environment at *home*. Half an environment is never left looking whole: the stamp comes last."""
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    # Groups (PEP 735) need pip 25.1; Pythons come with older ones.
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True, cwd=ROOT, stdout=sys.stderr)
    subprocess.run([*pip, *REQUIREMENTS[name]], check=True, cwd=ROOT, stdout=sys.stderr)


def main(name: str) -> None:
    """Make the environment *name* if it is missing or old, and print its Python."""
    version, executable = choose(name)
    home = ROOT / ".venv" / name
    home.parent.mkdir(exist_ok=True)
    with (home.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once must not build one environment together
        stamp, wanted = home / "stamp.json", stamp_for(name, version, executable)
        if not stamp.exists() or stamp.read_text() != wanted:
            say(f"environment: making .venv/{name} with Python {'.'.join(map(str, version))}")
            make(name, executable, home)
            stamp.write_text(wanted)
    print(home / "bin" / "python")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in REQUIREMENTS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(REQUIREMENTS)}")
    try:
        main(sys.argv[1])
    except subprocess.CalledProcessError as error:
        sys.exit(f"environment: failed: {' '.join(map(str, error.cmd))}")
