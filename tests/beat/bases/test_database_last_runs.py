"""django-celery-beat's last runs: the admin shows what ran, and the next leader goes on from there."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from tests.beat.bases.conftest import (
    DatabaseMachines,
    crontab,
    dies_before_writing,
    names,
    no_updates,
    on_each_database,
)
from tests.beat.machines import dues

pytestmark = pytest.mark.bases


@on_each_database
def test_the_admin_shows_what_ran(dcb: DatabaseMachines) -> None:
    """As soon as it was sent: the time and the count."""
    dcb.add("ten")
    leader = dcb.leader()
    assert dcb.ran("ten") == (None, 0)
    for count in (1, 2, 3):
        (headers,) = dcb.machines.after(leader, 10)
        assert (dues([headers]), headers["periodic_task_name"]) == ([10 * count], "ten")
        assert dcb.ran("ten") == (dcb.machines.wall.now, count)


def test_what_is_written_is_no_edit(dcb: DatabaseMachines) -> None:
    """Or each run would have all beats read the whole schedule again."""
    from django_celery_beat.models import PeriodicTasks

    dcb.add("ten")
    leader = dcb.leader()
    before = (PeriodicTasks.last_change(), dcb.row("ten").date_changed)
    assert names(dcb.machines.after(leader, 10)) == ["ten"]
    assert (PeriodicTasks.last_change(), dcb.row("ten").date_changed) == before


@on_each_database
def test_a_deposed_leader_writes_nothing_more(dcb: DatabaseMachines) -> None:
    """What it could not write while it led is older than what its successor wrote."""
    dcb.add("ten")
    old = dcb.leader()
    dcb.machines.wall.advance(10)
    with no_updates():
        old.tick_until_idle()
    assert old.scheduler._dirty == {"ten"}
    new = dcb.leader()
    assert len(dcb.machines.after(new, 10)) == 2
    before = dcb.tables()
    assert dcb.ran("ten") == (dcb.machines.wall.now, 2)
    old.scheduler.sync()
    with mock.patch("celery_leader.beat.gate.STANDBY_WAIT", 0.01):
        old.scheduler.tick()
    old.scheduler.close()
    old.scheduler._finalize()
    assert dcb.tables() == before


def test_what_could_not_be_written_is_written_later(dcb: DatabaseMachines) -> None:
    """A database that refuses a write stops no tick."""
    dcb.add("ten")
    leader = dcb.leader()
    with no_updates():
        assert names(dcb.machines.after(leader, 10)) == ["ten"]
    assert dcb.ran("ten") == (None, 0)
    leader.tick_until_idle()
    assert dcb.ran("ten") == (dcb.machines.wall.now, 1)


def test_a_worker_that_is_to_end_writes_what_it_sent(dcb: DatabaseMachines) -> None:
    """It may begin nothing new, and has the lease until the tick is over."""
    dcb.add("ten")
    leader = dcb.leader()
    app, send_task = leader.scheduler.app, leader.scheduler.app.send_task

    def send_and_end(*args: Any, **kwargs: Any) -> Any:
        leader.campaign.close_to_new_work()
        return send_task(*args, **kwargs)

    dcb.machines.wall.advance(10)
    with mock.patch.object(app, "send_task", send_and_end):
        leader.scheduler.tick()
    assert names(dcb.machines.sent()) == ["ten"]
    assert dcb.ran("ten") == (dcb.machines.wall.now, 1)


def test_a_run_that_was_never_written_is_not_run_again(dcb: DatabaseMachines) -> None:
    """The ledger knows it; the database, which does not, is told by the next leader."""
    dcb.add("ten")
    dcb.add("minute", crontab=crontab())
    first = dcb.leader()
    dcb.machines.wall.advance(30)
    dies_before_writing(first)
    assert sorted(names(dcb.machines.sent())) == ["minute", "ten"]
    assert dcb.ran("ten") == dcb.ran("minute") == (None, 0)
    ran_at = dcb.machines.wall.now
    dcb.machines.wall.advance(5)
    second = dcb.leader()
    assert dcb.machines.sent() == []
    assert dcb.ran("ten") == dcb.ran("minute") == (ran_at, 1)
    assert dues(dcb.machines.after(second, 5)) == [40]


def test_the_next_leader_goes_on_where_the_last_one_stopped(dcb: DatabaseMachines) -> None:
    """Entries that ran, and entries that wait for their first run."""
    dcb.add("ten")
    dcb.add("minute", crontab=crontab())
    first = dcb.leader()
    assert names(dcb.machines.after(first, 25)) == ["ten"]
    second = dcb.leader()
    assert dcb.machines.sent() == []
    assert names(dcb.machines.after(second, 5)) == ["minute"]
    third = dcb.leader()
    assert dues(dcb.machines.after(third, 5)) == [35]


def test_last_runs_in_the_future_are_mended_as_the_how_to_says(dcb: DatabaseMachines) -> None:
    """In the ledger and in the admin's table: an entry that the ledger does not know counts from there."""
    from django_celery_beat.models import PeriodicTask

    dcb.add("e")
    first = dcb.leader()
    assert len(dcb.machines.after(first, 86_400 * 365)) == 1
    first.resign()
    dcb.machines.wall.advance(-86_400 * 365)
    del dcb.machines.ledger._claims["e"]
    PeriodicTask.objects.filter(last_run_at__gt=dcb.machines.wall.now).update(last_run_at=None)
    assert len(dcb.machines.after(dcb.leader(), 10)) == 1


def leader_of(dcb: DatabaseMachines, base: Any) -> Any:
    """Start a machine that leads by a scheduler of the project's own."""
    machine = dcb.machines.add(base)
    machine.scheduler.app.set_current()
    return dcb.machines.take_over(machine)


def test_a_project_s_own_sync_is_called(dcb: DatabaseMachines) -> None:
    """As often as by its own beat; last runs are there by then."""
    from django_celery_beat.schedulers import DatabaseScheduler

    seen: list[int] = []

    class Own(DatabaseScheduler):
        def sync(self) -> None:
            super().sync()
            seen.append(dcb.ran("ten")[1])

    dcb.add("ten")
    leader = leader_of(dcb, Own)
    seen.clear()
    dcb.machines.after(leader, 10)
    leader.scheduler._do_sync()
    leader.scheduler.close()
    assert seen == [1, 1]


def test_a_project_s_own_entries_are_saved_one_by_one(dcb: DatabaseMachines) -> None:
    """Once for many runs, as by its own beat: each save may take a while, or leave a trace."""
    from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry

    saved: list[tuple[str, int]] = []

    class OwnEntry(ModelEntry):
        def save(self) -> None:
            saved.append((self.name, self.model.total_run_count))
            super().save()

    class Own(DatabaseScheduler):
        Entry = OwnEntry

    for name in ("ten", "too"):
        dcb.add(name)
    leader = leader_of(dcb, Own)
    leader.scheduler._do_sync()
    for _ in range(3):
        assert len(dcb.machines.after(leader, 10)) == 2
    assert saved == []
    leader.scheduler._do_sync()
    assert sorted(saved) == [("ten", 3), ("too", 3)]
    assert dcb.ran("ten") == (dcb.machines.wall.now, 3)


def test_receivers_of_saved_entries_are_told(dcb: DatabaseMachines) -> None:
    """An audit log, say."""
    from django.db.models.signals import post_save
    from django_celery_beat.models import PeriodicTask

    saved: list[tuple[str, int]] = []

    def note(instance: Any, **_: Any) -> None:
        saved.append((instance.name, instance.total_run_count))

    dcb.add("ten")
    post_save.connect(note, sender=PeriodicTask)
    try:
        leader = dcb.leader()
        leader.scheduler._do_sync()
        dcb.machines.after(leader, 10)
        leader.scheduler._do_sync()
    finally:
        post_save.disconnect(note, sender=PeriodicTask)
    assert saved == [("ten", 1)]
