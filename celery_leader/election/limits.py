"""What a store holds is input: the limits of every value that comes from a store, and how its text is shown."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timezone
from typing import TypeGuard

#: The longest duration (seconds): ten years, so that a time plus a duration is still a time.
LONGEST = 10 * 366 * 86_400.0
#: Tokens, transitions and run counts stay below this: every store, JSON reader and Lua script keeps them exactly, and
#: none of them overflows by adding one.
TOO_MANY = 2**53
#: The largest record (bytes), and the longest name of an election, a candidate or a deployment (characters). A record
#: has room for two such names, though a character may take twelve bytes in JSON.
LARGEST_RECORD = 64_000
LONGEST_NAME = 2_000
#: The earliest and the latest time: a date can hold both in every time zone.
EARLIEST = datetime(1970, 1, 1, tzinfo=timezone.utc)
LATEST = datetime(9998, 12, 31, tzinfo=timezone.utc)

_LONGEST_TEXT = 200
_MOST_NAMES = 3


def shown(value: object) -> str:
    """Return text from a store for a log line, a table or an error: escaped, and 200 characters at most.

    Characters that a terminal or a reader of logs would obey become visible: control characters, line breaks, escape
    sequences, signs that turn the direction of writing, halves of surrogate pairs.

    Args:
        value: Text, or bytes that should be text. Of anything else, ``str()`` is shown.
    """
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    kept = text[:_LONGEST_TEXT]
    if not kept.isprintable():
        kept = repr(kept)[1:-1]
    is_whole = max(len(text), len(kept)) <= _LONGEST_TEXT
    return kept if is_whole else f"{kept[: _LONGEST_TEXT - 1]}…"


def shown_value(value: object) -> str:
    """Return an unexpected value of any type, fit for an error's message."""
    try:
        return shown(repr(value))
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists
        return f"a value of type {type(value).__name__} that is too large to show"


def shown_names(names: Collection[str | bytes]) -> str:
    """Return the first few of *names* for a log line, and the number of the others: there may be a million."""
    first = [shown(name) for name, _ in zip(names, range(_MOST_NAMES), strict=False)]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "")


def is_time(value: object) -> bool:
    """Return whether *value* is a time with a time zone, within the limits."""
    return isinstance(value, datetime) and value.tzinfo is not None and EARLIEST <= value <= LATEST


def is_number(value: object) -> TypeGuard[float]:
    """Return whether *value* is a number. A bool is none, though Python counts it among the integers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_duration(value: object) -> TypeGuard[float]:
    """Return whether *value* is a positive number of seconds, ten years at most."""
    return is_number(value) and 0 < value <= LONGEST


def is_count(value: object) -> TypeGuard[int]:
    """Return whether *value* is a whole number that every store keeps exactly."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < TOO_MANY


def is_name(value: object) -> bool:
    """Return whether *value* is text that may name an election or a candidate: UTF-8, short enough for a record."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
