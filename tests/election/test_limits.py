"""How text of a store is shown: whatever it holds, a terminal, a log and a reader of JSON stay what they were."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_leader.election.limits import shown, shown_names, shown_value


@pytest.mark.parametrize(
    "text", ["celery@web-1/4121/9f3c2a10", "celery@wéb-1/1/ж", 'it\'s "100 %s" {x}; --', "выборы 選舉 🗳", ""]
)
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    """In any script, with any sign."""
    assert shown(text) == text
    assert shown(text.encode()) == text


@pytest.mark.parametrize(
    ("text", "as_shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("one\nWARNING two", "one\\nWARNING two"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\u202eb", "a\\u202eb"),
        ("a\0b", "a\\x00b"),
        ("half \ud800", "half \\ud800"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("x" * 201, "x" * 199 + "…"),
        ("\n" * 150, "\\n" * 99 + "\\…"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str | bytes, as_shown: str) -> None:
    """Colours, titles, line breaks, directions of writing; and nothing is longer than a line."""
    assert shown(text) == as_shown


@given(st.one_of(st.text(st.characters()), st.binary()))
def test_anything_is_shown_on_one_short_line(text: str | bytes) -> None:
    """Printable, encodable, 200 characters at most."""
    for told in (shown(text), shown_value(text)):
        assert told.isprintable()
        assert len(told) <= 200
        told.encode()


def test_values_that_python_refuses_to_write_are_shown_all_the_same() -> None:
    """Errors about them must not raise another."""
    deep: list[object] = []
    for _ in range(100 * sys.getrecursionlimit()):
        deep = [deep]
    assert shown_value(10**10_000) == "a value of type int that is too large to show"
    assert len(shown_value(deep)) <= 200
    assert shown_value("x\n") == "'x\\n'"


def test_of_many_names_a_few_are_shown() -> None:
    """There may be a million."""
    assert shown_names(["a", "b\n"]) == "a, b\\n"
    assert shown_names([f"e{number}" for number in range(1_000_000)]) == "e0, e1, e2 and 999,997 more"
