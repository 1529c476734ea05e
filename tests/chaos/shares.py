"""A pytest plugin: which chaos tests run where. Each case runs once, in one of three shares.

    pytest -p tests.chaos.shares --share quick|lowest|highest tests/chaos

quick: of the tests marked so, the cases that together meet every value of every parameter once. The others are a Latin
square over parameters and version sets: neighbours run on different versions, and so do whole tests without
parameters, in turns.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest

#: The shares of the cases that are not quick.
SETS = ("lowest", "highest")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--share``."""
    parser.addoption("--share", choices=("quick", *SETS), required=True, help="which chaos tests to run")


@pytest.hookimpl(tryfirst=True)  # before -m and -k, so that they move no case to another share
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cases of one share."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    share = {}
    for place, of_test in enumerate(cases.values()):
        is_quick = of_test[0].get_closest_marker("quick") is not None
        numbers = numbered([parameters_of(item) for item in of_test])
        share |= zip(of_test, shares_of(place, numbers, is_quick=is_quick), strict=True)
    wanted = config.getoption("--share")
    config.hook.pytest_deselected(items=[item for item in items if share[item] != wanted])
    items[:] = [item for item in items if share[item] == wanted]


def parameters_of(item: pytest.Item) -> Mapping[str, object]:
    """Return the values of a case's parameters."""
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec else {}


def numbered(cases: Sequence[Mapping[str, object]]) -> list[dict[str, int]]:
    """Return the cases of one test with numbers for values, as they come: pytest's own repeat themselves."""
    values: dict[str, list[object]] = defaultdict(list)
    for name, value in itertools.chain.from_iterable(case.items() for case in cases):
        if value not in values[name]:
            values[name].append(value)
    return [{name: values[name].index(value) for name, value in case.items()} for case in cases]


def shares_of(place: int, cases: Sequence[Mapping[str, int]], *, is_quick: bool) -> list[str]:
    """Return the shares of the cases of one test.

    Args:
        place: The test's place among all tests.
        cases: Which value of each parameter each of them has.
        is_quick: Whether the test is marked ``quick``.
    """
    sizes = {name: 1 + max(case[name] for case in cases) for name in cases[0]}
    return [
        "quick" if is_quick and is_on_diagonal(case, sizes) else SETS[(place + sum(case.values())) % len(SETS)]
        for case in cases
    ]


def is_on_diagonal(case: Mapping[str, int], sizes: Mapping[str, int]) -> bool:
    """Return whether a case is on the diagonal of its square, which meets every value of every parameter."""
    if not sizes:
        return True
    step = case[max(sizes, key=lambda name: sizes[name])]
    return all(number == step % sizes[name] for name, number in case.items())
