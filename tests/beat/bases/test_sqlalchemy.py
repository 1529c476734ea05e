"""sqlalchemy-celery-beat's schedule in an SQLite file, led by ours."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from celery_leader.beat.embedded import EmbeddedBeat
from tests.beat.machines import EACH_MINUTE, EVERY_TEN, START, Machine, Machines, dues
from tests.chaos.fleet import Fleet
from tests.servers import RedisServer

pytestmark = pytest.mark.bases

BASE = "sqlalchemy_celery_beat.schedulers:DatabaseScheduler"


@pytest.fixture
def path(machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database, at whose clock its entries look."""
    from sqlalchemy_celery_beat.schedulers import ModelEntry, session_manager

    monkeypatch.setattr(session_manager, "prepared", False)  # else one database a process has tables
    monkeypatch.setattr(ModelEntry, "_default_now", lambda entry: machines.wall.now)
    path = tmp_path / "schedule.db"
    machines.conf |= {"beat_dburi": f"sqlite:///{path}", "result_expires": None, "leader_beat_scheduler": BASE}
    machines.schedule = {**EVERY_TEN, **EACH_MINUTE}
    return path


def leading(machines: Machines) -> Machine:
    """A machine that leads; whoever led does so no more."""
    leader = machines.add(BASE)
    leader.scheduler.app.set_current()  # whose clock schedules look at
    return machines.take_over(leader)


def last_runs(path: Path) -> dict[str, tuple[datetime | None, int]]:
    """Return when the entries ran last by the database, and how often."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, last_run_at, total_run_count FROM celery_periodictask").fetchall()
    return {name: (at and datetime.fromisoformat(at).replace(tzinfo=timezone.utc), count) for name, at, count in rows}


def test_due_entries_are_sent_once_over_a_handover(machines: Machines, path: Path) -> None:
    """The schedule is installed by who leads first, and claimed in batches."""
    leader = leading(machines)
    assert machines.sent() == []
    machines.wall.advance(10)
    leader.tick_until_idle()
    assert dues(machines.sent()) == [10]
    leader = leading(machines)
    assert machines.sent() == []
    machines.wall.advance(20)
    with mock.patch.object(machines.ledger, "claim", side_effect=machines.ledger.claim) as claim:
        leader.tick_until_idle()
        assert claim.call_count == 1
    assert sorted(each["task"] for each in machines.sent()) == ["t.minute", "t.ten"]


def test_an_edit_takes_effect(machines: Machines, path: Path) -> None:
    """As with its own beat."""
    leader = leading(machines)
    scheduler: Any = leader.scheduler
    with closing(scheduler.Session()) as session:
        session.query(scheduler.Model).filter_by(name="ten").one().enabled = False
        session.commit()
    machines.wall.advance(30)
    leader.tick_until_idle()
    assert [each["task"] for each in machines.sent()] == ["t.minute"]


def test_last_runs_are_written_before_the_lease_goes_back(machines: Machines, path: Path) -> None:
    """A worker that ends has its beat write them, though it may begin no tick any more; a successor reads them."""
    leader = leading(machines)
    candidate = leader.campaign.candidates["default"]
    beat = EmbeddedBeat(leader.scheduler.app, leader.campaign)
    assert not beat.is_busy
    beat._scheduler.tick()
    machines.wall.advance(10)
    beat._scheduler.tick()
    assert dues(machines.sent()) == [10]
    leader.campaign.close_to_new_work()
    assert candidate.elector.term
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        beat._scheduler.tick()  # comes before the election asks whether the beat is busy
        assert beat.is_busy
        beat._scheduler.tick()
    assert not beat.is_busy
    assert last_runs(path)["ten"] == (START + timedelta(seconds=10), 1)
    assert last_runs(path)["minute"][1] == 0
    beat._scheduler.close()


@pytest.mark.redis
@pytest.mark.chaos
def test_a_worker_that_is_stopped_writes_last_runs(tmp_path: Path) -> None:
    """In a process, by SIGTERM; the hand-over is as quick as ever."""
    path = tmp_path / "schedule.db"
    with RedisServer() as server:
        conf = {"beat_dburi": f"sqlite:///{path}", "leader_beat_scheduler": BASE, "result_expires": None}
        with Fleet(tmp_path, server, server.url, conf=conf) as workers:
            workers.start("one", "-P", "threads", "-c", "1")
            assert workers.await_ticking_leader() == "one"
            workers.start("two", "-P", "threads", "-c", "1")
            workers.await_ready("two")
            terms = len(workers.evidence().terms())
            begun = workers.signal("one", signal.SIGTERM)
            lasted = workers.await_term(terms) - begun
            written = last_runs(path)
            assert workers.await_end("one") == 0
            claimed = workers.claimed()
            assert 0 < written["second"][1] <= claimed["second"]
            assert lasted < 1.0
