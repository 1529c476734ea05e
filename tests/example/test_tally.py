"""What the demo's last line counts can be something else than zero."""

from __future__ import annotations

from typing import Any

from example_project.tally import Tally

TASK = "shop.tasks.take_orders"


def ran(second: int, *, redelivered: bool = False) -> dict[str, Any]:
    """Return the diary's line of a tick due at that second."""
    due_at = f"2026-11-24T09:00:{second:02}+00:00"
    return {"event": "ran", "task": TASK, "due_at": due_at, "redelivered": redelivered}


def test_a_tick_that_ran_twice_is_counted() -> None:
    """Unless the broker says that it delivered the message again."""
    assert Tally([ran(1), ran(1)]).twice() == [f"{TASK} due 2026-11-24T09:00:01+00:00"]
    assert Tally([ran(1), ran(1, redelivered=True), ran(2)]).twice() == []


def test_a_tick_that_was_claimed_and_never_ran_is_counted() -> None:
    """Unless its message still waits in the broker."""
    tally = Tally([ran(1), ran(2)])
    assert tally.lost({TASK: 3}, {}, {}, 0.0) == [f"{TASK}: 3 were claimed, 2 ran"]
    assert tally.lost({TASK: 3}, {TASK: 1}, {}, 0.0) == []


def test_a_time_without_ticks_is_counted() -> None:
    """Unless nobody led for so long."""
    tally = Tally([ran(1), ran(8)])
    assert tally.lost({TASK: 2}, {}, {TASK: 1.0}, 0.0) == [f"{TASK}: nothing was due for 7.0 s"]
    assert tally.lost({TASK: 2}, {}, {TASK: 1.0}, 5.0) == []


def test_who_leads() -> None:
    """The last that started and did not stop."""
    started = {"event": "started", "at": 1.0, "identity": "w1@example/1/a", "token": 5}
    stopped = {"event": "stopped", "at": 2.0, "token": 5}
    assert Tally([started]).leader() == started
    assert Tally([started, stopped]).leader() is None
    assert Tally([started]).started_after(0.5) == started
    assert Tally([started]).started_after(1.0) is None
