"""``@once_per_tick`` and messages whose sender lies: whoever may send messages can compute the id of any tick."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_leader.beat.due_times import task_id
from celery_leader.ledger import DUE_HEADER, Tick
from celery_leader.tasks.once_per_tick import CLOCK_TOLERANCE
from tests.once.conftest import DUE, TICK, Runs, deliver, is_dropped
from tests.tasks.deliveries import taken


def coming(seconds: float) -> dict[str, Any]:
    """The message of a tick that is due in so many seconds."""
    due = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return {"id": task_id("proj", Tick("default", "invoices", due)), "headers": {DUE_HEADER: due.isoformat()}}


@pytest.mark.parametrize(
    "embed",
    [
        {"is_eager": True},
        {"is_eager": True, "properties": None},
        {"called_directly": True},
        {"headers": {}},
        {"headers": 5},
        {"__once_per_tick__": True},
    ],
    ids=str,
)
def test_a_message_can_not_say_that_it_is_no_tick(app: Celery, embed: dict[str, Any]) -> None:
    """Neither in its body nor in its headers: a tick that is done is dropped."""
    runs = Runs(app)
    deliver(runs.task)
    assert is_dropped(deliver(runs.task, embed=embed))
    assert is_dropped(deliver(runs.task, headers={**embed, DUE_HEADER: DUE.isoformat()}))
    assert runs.count == 1


def test_a_tick_does_not_run_before_it_is_due(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever sends it ahead of time has it put off; the log names the clocks as the honest cause."""
    runs, tick = Runs(app), coming(3600)
    with caplog.at_level(logging.WARNING):
        assert is_dropped(deliver(runs.task, **tick))
    assert runs.count == 0
    assert "by this machine's clock it is due in 3600 s" in caplog.text
    (message,) = taken(app)
    assert (message.headers["id"], message.headers[DUE_HEADER]) == (tick["id"], tick["headers"][DUE_HEADER])


def test_clocks_may_differ_a_little(app: Celery) -> None:
    """A leader whose clock is ahead sends what is due by its own."""
    runs = Runs(app)
    assert deliver(runs.task, **coming(CLOCK_TOLERANCE - 1)) is None
    assert runs.count == 1


def test_a_tick_sent_with_another_due_time_is_another_tick(app: Celery) -> None:
    """The genuine one still runs: its due time is part of what is noted."""
    runs = Runs(app)
    assert deliver(runs.task, headers={DUE_HEADER: "2020-01-01T00:00:00+00:00"}) is None
    assert deliver(runs.task, id=TICK) is None
    assert runs.count == 2


def test_a_due_time_may_be_written_in_any_zone(app: Celery) -> None:
    """It is the same tick."""
    runs = Runs(app)
    deliver(runs.task)
    elsewhere = DUE.astimezone(timezone(timedelta(hours=9)))
    assert is_dropped(deliver(runs.task, headers={DUE_HEADER: elsewhere.isoformat()}))
