"""``@once_per_tick`` while its store does not answer."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_leader.backends.memory import MemoryOnceStore
from celery_leader.exceptions import ConfigurationError, StoreUnavailable
from celery_leader.tasks import once_per_tick
from celery_leader.tasks import patient_store as patience
from celery_leader.tasks.once_per_tick import SHORTEST_PAUSE
from tests.once.conftest import NAME, TICK, Runs, deliver, is_dropped
from tests.tasks.deliveries import taken


class Unavailable:
    """A store that gives no answer to the first *count* calls of a method, whether it did what was asked or not."""

    only_the_answer = False  # is lost

    def __init__(self, monkeypatch: pytest.MonkeyPatch, once_store: MemoryOnceStore, method: str, count: int) -> None:
        """Let *method* fail."""
        self.left, self._real = count, getattr(once_store, method)
        monkeypatch.setattr(once_store, method, self._call, raising=False)

    def _call(self, *arguments: Any) -> Any:
        if not self.left:
            return self._real(*arguments)
        self.left -= 1
        if self.only_the_answer:
            self._real(*arguments)
        raise StoreUnavailable("store away")


def test_an_answer_that_was_lost_is_asked_for_again(
    app: Celery, once_store: MemoryOnceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim had been written: it is ours."""
    runs = Runs(app)
    Unavailable(monkeypatch, once_store, "begin", 1).only_the_answer = True
    assert deliver(runs.task) is None
    assert runs.count == 1


@pytest.mark.parametrize("acks_late", [False, True])
def test_a_store_that_does_not_answer_puts_the_tick_off(
    app: Celery, once_store: MemoryOnceStore, monkeypatch: pytest.MonkeyPatch, acks_late: bool
) -> None:
    """It is neither run blindly nor lost."""
    runs = Runs(app, acks_late=acks_late)
    monkeypatch.setattr(once_store, "_look", lambda task_id: (_ for _ in ()).throw(StoreUnavailable("store away")))
    assert is_dropped(deliver(runs.task))
    assert runs.count == 0
    monkeypatch.undo()
    (message,) = taken(app)
    assert message.headers["id"] == TICK
    assert deliver(runs.task) is None


@pytest.mark.parametrize("acks_late", [False, True])
def test_a_message_that_can_not_be_put_off_is_not_lost_in_silence(
    app: Celery, once_store: MemoryOnceStore, monkeypatch: pytest.MonkeyPatch, acks_late: bool
) -> None:
    """It goes back, after a pause; if it was acknowledged and can't, the task fails for all to see."""
    pauses: list[float] = []
    waits_for_broker: list[bool] = []
    monkeypatch.setattr(once_per_tick.time, "sleep", pauses.append)
    runs = Runs(app, acks_late=acks_late)
    once_store.begin(NAME, "other", 600)

    def refuse(*args: Any, **kwargs: Any) -> None:
        waits_for_broker.append(bool(kwargs.get("retry") and kwargs.get("retry_policy")))
        raise RuntimeError("refused")

    monkeypatch.setattr(type(app), "send_task", refuse)
    info = deliver(runs.task)
    assert info.state == ("REJECTED" if acks_late else "FAILURE")
    assert not acks_late or info.retval.requeue
    assert waits_for_broker == [not acks_late]
    assert pauses == ([SHORTEST_PAUSE] if acks_late else [])
    assert runs.count == 0


def test_a_tick_that_is_done_waits_for_the_store(
    app: Celery, once_store: MemoryOnceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its effect is there; a short outage does not make it come twice. No attempt follows another without a pause."""
    pauses: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", pauses.append)
    runs = Runs(app)
    away = Unavailable(monkeypatch, once_store, "done", 3)
    assert deliver(runs.task) is None
    assert away.left == 0
    assert pauses == [patience.PAUSE] * 3
    assert is_dropped(deliver(runs.task))


def test_a_tick_that_is_done_does_not_wait_for_ever(
    app: Celery, once_store: MemoryOnceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It succeeds, and the log tells that its note is missing."""
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    runs = Runs(app)
    Unavailable(monkeypatch, once_store, "done", 1)
    assert deliver(runs.task) is None
    assert f"Tick {NAME} is done, but that could not be noted" in caplog.text


def test_a_claim_is_given_back_by_a_second_try(
    app: Celery, once_store: MemoryOnceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was idle while the task ran may have been cut."""

    def act() -> None:
        if runs.count == 1:
            raise ValueError("no")

    runs = Runs(app, act)
    away = Unavailable(monkeypatch, once_store, "release", 1)
    assert deliver(runs.task).state == "FAILURE"
    assert away.left == 0
    assert deliver(runs.task) is None


def test_a_failure_that_can_not_give_its_claim_back_is_still_that_failure(
    app: Celery, once_store: MemoryOnceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log tells how long the tick will wait."""

    def act() -> None:
        raise ValueError("no")

    runs = Runs(app, act)
    Unavailable(monkeypatch, once_store, "release", 2)
    assert "no" in str(deliver(runs.task).retval)
    assert "can't run again before its claim has ended" in caplog.text


def test_a_store_is_asked_for_a_week(app: Celery, once_store: MemoryOnceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or as long as ``leader_tick_retention`` says."""
    kept: list[float] = []
    monkeypatch.setattr(once_store, "done", lambda *call: kept.append(call[2]) or True, raising=False)
    deliver(Runs(app).task)
    assert kept == [7 * 24 * 3600]


def test_a_worker_without_a_store_fails_its_ticks() -> None:
    """Waiting would not help."""
    app = Celery("proj", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.leader_lease = 5
    info = deliver(Runs(app).task)
    assert isinstance(info.retval, ConfigurationError)
    app.close()
