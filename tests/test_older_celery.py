"""What older versions of Celery need stands in one file, which goes with them."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

import pytest

import celery_leader

PACKAGE = Path(celery_leader.__file__).parent
HOME = PACKAGE / "older_celery.py"
#: What a module would say that tells older versions of Celery, kombu or billiard from later ones.
MENTION = re.compile(
    r"(celery|kombu|billiard)\.(__version__|VERSION|version_info)|\b5\.[56]\b|\b(before|until|<=?)\W+(\w+\W+)?5\.\d"
)

pytestmark = pytest.mark.once


def mentions(text: str) -> list[str]:
    """Return the lines of *text* that tell versions apart."""
    return [line.strip() for line in text.splitlines() if MENTION.search(line)]


def test_no_other_module_tells_versions_apart() -> None:
    """Whoever drops a version finds all of it in one place."""
    others = [path for path in PACKAGE.rglob("*.py") if path != HOME]
    found = {str(path): mentions(path.read_text()) for path in others}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "if celery.__version__ < '5.7':",
        "if celery.VERSION >= (5, 7):",
        "if kombu.version_info.minor < 6:",
        "# Celery 5.5 has a process consume from every queue",
        "wait = 1  # kombu before 5.7 has no name for it",
        "(Celery before 5.7)",
    ],
)
def test_a_mention_is_recognised(line: str) -> None:
    """A check that nothing can fail checks nothing."""
    assert mentions(line) == [line]


def test_the_file_goes_with_the_versions_that_need_it() -> None:
    """It says that it ends when Celery 5.7 is required."""
    (required,) = [line for line in requires("celery-leader") or [] if "extra ==" not in line]
    lowest = re.search(r">=\s*5\.(\d+)", required)
    assert lowest
    assert HOME.exists() == (int(lowest[1]) < 7)
