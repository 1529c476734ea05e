"""``SCENARIOS.md`` names every scenario, and for each a test that exists or why it does not apply."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.election.scenarios import CASES

ROOT = Path(__file__).parents[2]
#: How many of each there are.
NUMBERED = {
    "K": 8, "RL": 5, "FP": 2, "CF": 2, "H": 5, "RC": 1, "ST": 6, "C": 5, "CD": 2, "PY": 4, "RV": 16, "SC": 7,
    "OB": 10, "D": 11, "PR": 4, "N": 17,
}  # fmt: skip
LINES = {case.name.partition(" ")[0] for case in CASES}
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in Path(__file__).with_name("SCENARIOS.md").read_text().splitlines()
    if re.match(r"\| [A-Z]+\d", line)
]


def ids_of(cell: str) -> list[str]:
    """Return what a first cell names: ``K1``, or ``C1–C5``."""
    first, _, last = cell.partition("–")
    letters, number = re.fullmatch(r"([A-Z]+)(\d+)", first).groups()
    return [f"{letters}{n}" for n in range(int(number), int(last.removeprefix(letters) or number) + 1)]


@cache
def tree_of(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def exists(node_id: str) -> bool:
    """Return whether *node_id* is a test, and what is in its brackets, if anything, a text in its file."""
    path, *names = re.split("::", node_id.partition("[")[0])
    if not (ROOT / path).is_file():
        return False
    node: ast.AST = tree_of(path)
    for name in names:
        found = [child for child in getattr(node, "body", []) if getattr(child, "name", None) == name]
        if not found:
            return False
        node = found[0]
    parameter = re.search(r"\[(.*)\]$", node_id)
    texts = {child.value for child in ast.walk(tree_of(path)) if isinstance(child, ast.Constant)}
    return names[-1].startswith("test_") and (parameter is None or parameter[1] in texts)


def test_every_scenario_is_there_once() -> None:
    """In the list, none forgotten and none twice."""
    ids = [name for row in ROWS for name in ids_of(row[0])]
    assert sorted(ids) == sorted(f"{letters}{n}" for letters, most in NUMBERED.items() for n in range(1, most + 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_its_proof_exists(row: list[str]) -> None:
    """A line of the table, a test, or a reason."""
    proofs = re.findall("`([^`]+)`", row[2])
    assert bool(proofs) != row[2].startswith("does not apply: ")
    assert [proof for proof in proofs if proof not in LINES and not exists(proof)] == []


def test_every_line_of_the_table_is_named() -> None:
    """Under its own id, so that whoever looks for a scenario finds all of it."""
    named = {proof for row in ROWS for proof in re.findall("`([^`]+)`", row[2])}
    assert LINES - named == set()


@pytest.mark.parametrize(
    "node_id",
    [
        "tests/election/test_gone.py::test_x",
        "tests/election/test_stress.py::test_gone",
        "tests/election/test_stress.py::assert_told_in_order",
        "tests/election/test_elector.py::test_health[H9 no such case]",
        "celery_leader/testing/lock_contract.py::LockContract::test_gone",
    ],
)
def test_what_does_not_exist_is_noticed(node_id: str) -> None:
    """Otherwise the map proves nothing."""
    assert not exists(node_id)
