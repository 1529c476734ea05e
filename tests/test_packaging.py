"""What a user installs: the wheel, its metadata, and what importing the package costs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint, entry_points, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import celery_leader

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["celery", "kombu", "django", "redis"]
# Everything that is no Python and must be shipped, by the end of its name.
DATA = {".lua", ".html", ".txt", ".css", ".js", ".svg", ".po", ".mo", ".typed"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built as a release builds it, but without downloading the builder."""
    target = tmp_path_factory.mktemp("dist")
    done = run("-m", "hatchling", "build", "--target", "wheel", "--directory", target)
    assert done.returncode == 0, done.stderr
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.once
def test_the_wheel_holds_every_module_and_data_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    """Migrations, templates, Lua scripts, translations: what is in the repository is what is installed."""
    names = set(wheel.namelist())
    kept = {name for name in git("ls-files", "celery_leader") if Path(name).suffix in {".py", *DATA}}

    assert kept - names == set()
    assert "celery_leader/py.typed" in names
    assert any(re.fullmatch(r"celery_leader/backends/redis/\w+\.lua", name) for name in names)
    assert any(re.fullmatch(r"celery_leader/django/migrations/0001_\w+\.py", name) for name in names)


@pytest.mark.once
def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No tests, no example, no cache in the user's site-packages."""
    outside = [name for name in wheel.namelist() if not re.match(r"celery_leader(-[^/]+\.dist-info)?/", name)]

    assert outside == []
    assert [name for name in wheel.namelist() if "__pycache__" in name or name.endswith((".pyc", ".sqlite3"))] == []


@pytest.mark.once
def test_the_wheel_carries_licence_and_version(wheel: zipfile.ZipFile) -> None:
    """Metadata says what the code says."""
    home = f"celery_leader-{celery_leader.__version__}.dist-info"
    metadata = wheel.read(f"{home}/METADATA").decode()

    assert "License-Expression: BSD-3-Clause" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert wheel.read(f"{home}/licenses/LICENSE").startswith(b"BSD 3-Clause License")
    assert version("celery-leader") == celery_leader.__version__


def test_celery_is_the_only_thing_that_everybody_must_install() -> None:
    """All else is an extra."""
    always = [line for line in requires("celery-leader") or [] if "extra ==" not in line]

    assert [re.split(r"[<>=]", line)[0] for line in always] == ["celery"]


def our_entry_points() -> list[EntryPoint]:
    groups = ["celery.commands", "celery.beat_schedulers"]
    return [found for group in groups for found in entry_points(group=group) if found.dist.name == "celery-leader"]


def test_celery_is_told_of_the_command_and_the_schedulers() -> None:
    """`celery leader` and `celery beat -S leader` are found by name."""
    assert {(found.group, found.name) for found in our_entry_points()} == {
        ("celery.commands", "leader"),
        ("celery.beat_schedulers", "leader"),
        ("celery.beat_schedulers", "leader-django"),
    }


@pytest.mark.parametrize("group", ["celery.commands", "celery.beat_schedulers"])
def test_entry_points_name_what_is_there(group: str) -> None:
    """An entry point that can't be loaded breaks every `celery` command, not only ours."""
    (found,) = [point for point in our_entry_points() if (point.group, point.name) == (group, "leader")]

    assert callable(found.load())


def imported_by(program: str) -> set[str]:
    done = run("-c", f"{program}\nimport sys\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "program",
    [
        "import celery_leader",
        "import celery_leader.election, celery_leader.exceptions, celery_leader.ledger",
        "import celery_leader.backends",
    ],
)
def test_importing_the_core_imports_no_celery_and_no_store(program: str) -> None:
    """Whoever only asks for the election gets nothing but the standard library: import-linter can't see the root."""
    assert imported_by(program).isdisjoint(HEAVY)


def test_every_public_name_is_there() -> None:
    """The lazy names of the root are typed, listed, and lead somewhere."""
    for name in celery_leader.__all__:
        assert callable(getattr(celery_leader, name)), name
    assert set(celery_leader.__all__) <= set(dir(celery_leader))
    with pytest.raises(AttributeError, match="no attribute 'lead'"):
        celery_leader.lead  # noqa: B018


def lint_imports(home: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=home)


@pytest.mark.once
def test_the_floors_hold() -> None:
    """No import runs back up, and each store is imported in one place only."""
    done = lint_imports(ROOT)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: \d+ kept, 0 broken", done.stdout)


@pytest.mark.once
@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("election/elector.py", "import celery", "The election needs the standard library only"),
        ("settings.py", "import django.db", "Only celery_leader.django imports Django"),
        ("leadership/state.py", "import redis", "Only celery_leader.backends.redis imports redis"),
        ("election/term.py", "import celery_leader.backends", "No import runs back up the floors"),
    ],
)
def test_the_floors_notice_a_forbidden_import(module: str, line: str, contract: str, tmp_path: Path) -> None:
    """A contract that nothing can break holds nothing."""
    shutil.copytree(ROOT / "celery_leader", tmp_path / "celery_leader", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "celery_leader" / module).open("a") as file:
        file.write(f"\n{line}\n")

    done = lint_imports(tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout
