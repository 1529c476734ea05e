"""What CONTRIBUTING.md says of the code's layout is so: its files exist, and its arrows are imports."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import celery_leader

PACKAGE = Path(celery_leader.__file__).parent
ROOT = PACKAGE.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
DIAGRAMS = re.findall(r"```mermaid\nflowchart LR\n(.*?)```", TEXT, flags=re.DOTALL)

pytestmark = pytest.mark.once


def arrows(diagram: str) -> list[tuple[str, str, str]]:
    """Return the arrows of a diagram: from which file, "-->" or "-.->", to which."""
    files = dict(re.findall(r'(\w+)\["([^"]+)"\]', diagram))
    found = []
    for line in diagram.splitlines():
        steps = re.split(r"\s+(-->|-\.->)\s+", re.sub(r'\["[^"]+"\]', "", line.strip()))
        found += [(files[steps[at]], steps[at + 1], files[steps[at + 2]]) for at in range(0, len(steps) - 2, 2)]
    return found


def imported(path: str) -> set[str]:
    """Return the files of the package that *path* imports, also through a package that only hands a name on."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celery_leader"):
            found |= {home_of(node.module or "", alias.name) for alias in node.names}
    return found


def home_of(module: str, name: str) -> str:
    """Return the file that defines *name*, which is imported from *module*; the module itself for a constant."""
    if not hasattr(importlib.import_module(module), name):
        importlib.import_module(f"{module}.{name}")
    value = getattr(importlib.import_module(module), name)
    home = getattr(value, "__module__", getattr(value, "__name__", module))
    home = home if home.startswith("celery_leader") else module
    return f"{home.removeprefix('celery_leader.').replace('.', '/')}.py"


@pytest.mark.parametrize("diagram", DIAGRAMS, ids=["start", "renewal", "tick", "guarded call"])
def test_arrows_are_imports(diagram: str) -> None:
    """A dotted one is not: it would be solid."""
    assert len(arrows(diagram)) >= 6
    for start, arrow, end in arrows(diagram):
        assert (PACKAGE / end).exists(), end
        assert (end in imported(start)) == (arrow == "-->"), (start, arrow, end)


@pytest.mark.parametrize(("home", "least"), [("celery_leader", 40), ("tests", 8)])
def test_the_files_of_the_tables_exist(home: str, least: int) -> None:
    """Who looks for a concept finds it."""
    table = TEXT.partition(f"| file in `{home}/` |\n")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w/]+(?:\.py|/))`", table)
    assert len(named) > least
    assert [name for name in named if not (ROOT / home / name).exists()] == []


def test_each_file_is_named() -> None:
    """By itself or by its folder, so that no concept has a place that only its author knows."""
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    folders = tuple(re.findall(r"`([\w/]+/)`", TEXT))
    named = re.findall(r"[`\"]([\w/]+\.py)[`\"]", TEXT)
    assert {name for name in modules if name not in named and not name.startswith(folders)} == set()
