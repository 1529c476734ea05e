"""A guard that another decorator hides is said: its task would run anywhere, without a word."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_leader import leader_only, once_per_tick
from celery_leader.tasks.checks import tell_of_hidden_guards


def hiding(function: Callable[..., Any]) -> Callable[..., Any]:
    def anything(*args: Any) -> Any:
        return function(*args)

    return anything


def showing(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(hiding(function))


def warnings_of(caplog: pytest.LogCaptureFixture, function: Callable[..., Any], **options: Any) -> list[str]:
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.task(name="task", shared=False, **options)(function)
    caplog.set_level(logging.WARNING, "celery_leader")
    tell_of_hidden_guards(app)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("guard", [leader_only, once_per_tick])
@pytest.mark.parametrize("hide", [hiding, lambda function: hiding(hiding(function))])
@pytest.mark.parametrize("options", [{}, {"bind": True}])
def test_a_hidden_guard_is_said_once(
    guard: Any, hide: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """However many decorators hide it."""

    def close_the_day(*args: Any) -> None: ...

    (warning,) = warnings_of(caplog, hide(guard(close_the_day)), **options)
    assert warning.startswith("task is not guarded: ")
    assert "close_the_day" in warning
    assert f"@{guard.__name__}" in warning


@pytest.mark.parametrize("hide", [showing, lambda function: function])
@pytest.mark.parametrize("options", [{}, {"bind": True}, {"autoretry_for": (OSError,)}])
def test_a_guard_in_sight_is_not(hide: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """The decorator shows what it wraps."""

    def close_the_day(*args: Any) -> None: ...

    assert warnings_of(caplog, hide(leader_only(close_the_day)), **options) == []


def test_tasks_without_guards_are_not(caplog: pytest.LogCaptureFixture) -> None:
    """Closures hold many things, and may be empty, or lead back to themselves."""
    things = [1, "two"]

    def endless(*args: Any) -> None:
        return things and later() and endless(*args)

    if not things:
        later = endless
    assert warnings_of(caplog, hiding(endless)) == []
