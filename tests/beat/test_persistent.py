"""Celery's scheduler with a file: on one machine, only the leader has it open."""

from __future__ import annotations

import errno
import os
import shelve
from pathlib import Path
from unittest import mock

import pytest

from tests.beat.conftest import EVERY_TEN, Fleet, Machine, dues

BASE = "celery.beat:PersistentScheduler"


@pytest.fixture
def path(tmp_path: Path, fleet: Fleet) -> Path:
    """Where the schedule is kept."""
    fleet.schedule = EVERY_TEN
    fleet.conf["result_expires"] = None  # or there is an entry of Celery's own
    return tmp_path / "schedule"


def machine(fleet: Fleet, path: Path) -> Machine:
    """Start one more machine that keeps its schedule at *path*."""
    made = fleet.machine(BASE)
    made.scheduler.schedule_filename = str(path)
    return made


def files(path: Path) -> list[Path]:
    """Return the files of the schedule at *path*, whatever kind of database it is."""
    return sorted(path.parent.glob(f"{path.name}*"))


def opened(path: Path) -> list[str]:
    """Return which files of the schedule this process has open."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [target for target in targets if target.startswith(str(path))]


def test_only_the_leader_has_the_file(fleet: Fleet, path: Path) -> None:
    """A standby does not even make it, and who led closes it in its next tick, which is soon."""
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        first, second = machine(fleet, path), machine(fleet, path)
        first.scheduler.tick()
        assert files(path) == []
        first.lead()
        assert 0 < first.scheduler.tick() <= 1
        assert files(path)
        assert first.scheduler._store is not None
        first.resign()
        first.scheduler.tick()
        assert first.scheduler._store is None
        assert opened(path) == []
        second.lead()
        fleet.wall.advance(10)
        second.tick_until_idle()
        assert dues(fleet.sent()) == [10]
        second.resign()
        second.scheduler.tick()
        first.lead()
        fleet.wall.advance(10)
        first.tick_until_idle()
        assert dues(fleet.sent()) == [20]


def test_the_file_is_closed_before_the_lease_is_given_back(fleet: Fleet, path: Path) -> None:
    """And once more is harmless: Celery closes twice."""
    leader = machine(fleet, path)
    leader.lead()
    leader.scheduler.tick()
    leader.scheduler.close()
    assert opened(path) == []
    assert leader.campaign.candidates["default"].term
    leader.scheduler.close()


def test_what_is_written_to_the_file_is_the_entry_and_not_its_message(fleet: Fleet, path: Path) -> None:
    """Celery writes it in the midst of sending, when an entry has the options of its message. They are read again."""
    options = {"leader_catch_up": "all", "headers": {"mine": "1"}}
    fleet.schedule = {"ten": {"task": "t.ten", "schedule": 10.0, "options": options}}
    leader = machine(fleet, path)
    leader.lead()
    for seconds in (10, 50):
        leader.tick_until_idle()
        with mock.patch.object(leader.scheduler, "sync_every", -1):
            fleet.wall.advance(seconds)
            leader.tick_until_idle()
    assert dues(fleet.sent()) == [10, 20, 30, 40, 50, 60]
    leader.resign()
    leader.scheduler.tick()
    with shelve.open(str(path)) as store:
        assert store["entries"]["ten"].options == options


def test_the_file_knows_the_last_runs(fleet: Fleet, path: Path) -> None:
    """Each time that it is written its entries are made anew, in a mapping that may have the old one's id."""
    leader = machine(fleet, path)
    leader.lead()
    leader.tick_until_idle()
    for runs in range(1, 6):
        leader.scheduler._do_sync()
        _ = leader.scheduler.schedule  # is read again
        fleet.wall.advance(10)
        leader.tick_until_idle()
        entry = leader.scheduler.schedule["ten"]
        assert (entry.last_run_at, entry.total_run_count) == (fleet.wall.now, runs)


def test_a_file_in_use_is_not_deleted(fleet: Fleet, path: Path) -> None:
    """The base takes it for damaged; who led before closes it in a moment, and then the beat begins."""
    path.write_text("somebody's")
    leader = machine(fleet, path)
    leader.lead()
    in_use = mock.Mock(**{"open.side_effect": OSError(errno.EAGAIN, "Resource temporarily unavailable")})
    with (
        mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01),
        mock.patch.object(leader.scheduler, "persistence", in_use),
    ):
        assert leader.scheduler.tick() == 0
    assert path.read_text() == "somebody's"
    path.unlink()
    assert leader.scheduler.tick() > 0
    assert files(path)


def test_a_damaged_file_is_replaced(fleet: Fleet, path: Path) -> None:
    """As without us: what it said is in the ledger as well."""
    path.write_text("not a database")
    leader = machine(fleet, path)
    leader.lead()
    leader.tick_until_idle()
    fleet.wall.advance(10)
    leader.tick_until_idle()
    assert dues(fleet.sent()) == [10]


def test_a_schedule_that_can_not_be_closed_ends_no_beat(fleet: Fleet, path: Path) -> None:
    """A full disk, say, on standing back and at the end."""
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        leader = machine(fleet, path)
        leader.lead()
        leader.scheduler.tick()
        store, full = leader.scheduler._store, OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(store, "close", side_effect=full):
            leader.resign()
            assert leader.scheduler.tick() == 0
        store.close()
        leader.lead()
        leader.scheduler.tick()
        store = leader.scheduler._store
        with mock.patch.object(store, "close", side_effect=full):
            leader.scheduler.close()
        store.close()
