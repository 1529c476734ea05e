"""Waiting for a condition instead of sleeping: a test that sleeps is either slow or flaky."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def eventually(
    condition: Callable[[], T],
    timeout: float = 10.0,
    *,
    interval: float = 0.02,
    what: str = "",
    ignore: type[Exception] | tuple[type[Exception], ...] = (),
) -> T:
    """Call *condition* until it is true, and return what it returned.

    Args:
        condition: Asked again and again; cheap, and without side effects.
        timeout: Seconds until it must have become true.
        interval: Seconds between two questions.
        what: What was awaited, for the message of the failure.
        ignore: Exceptions that mean "not yet" (a refused connection, say). The last one is the failure's cause.

    Raises:
        AssertionError: It did not become true in time.
    """
    deadline = time.monotonic() + timeout
    error: Exception | None = None
    while True:
        try:
            answer = condition()
            error = None
        except ignore as caught:
            error = caught
        else:
            if answer:
                return answer
        if time.monotonic() >= deadline:
            awaited = what or getattr(condition, "__name__", repr(condition))
            raise AssertionError(f"not within {timeout:g} s: {awaited}") from error
        time.sleep(interval)
