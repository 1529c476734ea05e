"""What becomes of ticks in a database: beyond the contract, and in one transaction with what a task writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery, Task
from celery.exceptions import Ignore
from django.db import IntegrityError, connections, transaction

import celery_leader
from celery_leader import leader_only, once_per_tick
from celery_leader.django import once as module
from celery_leader.django.models import DeliveredTick, Fence
from celery_leader.exceptions import ConfigurationError, RecordConflict, StoreUnavailable
from celery_leader.ledger import DUE_HEADER
from celery_leader.tasks.leader_only import TO_FOLLOWER_HEADER
from celery_leader.tasks.patient_store import once_store_of
from celery_leader.testing.contests import race
from tests.contracts.once_contract import LONG, SHORT, TICK
from tests.django.test_ledger import statements_of
from tests.once.conftest import DUE, deliver, is_dropped
from tests.tasks.deliveries import taken
from tests.waiting import eventually

# Fence serves as a table that tasks write to.


def written(alias: str) -> list[str]:
    """What tasks wrote and committed."""
    return sorted(Fence.objects.using(alias).values_list("election", flat=True))


def write(alias: str, text: str) -> None:
    """Write as a task does, on the thread's own connection."""
    Fence.objects.using(alias).create(election=text, token=1)


def test_a_tick_is_few_statements(alias: str, backend_of: Callable[..., Any]) -> None:
    """A look for what has ended comes with the first, and not again for a while."""
    once_store = backend_of(alias).once_store()
    assert statements_of(once_store, lambda: once_store.begin(TICK, "a", LONG)) == ["INSERT", "SELECT", "SELECT"]
    assert statements_of(once_store, lambda: once_store.done(TICK, "a", LONG)) == ["UPDATE"]
    assert statements_of(once_store, lambda: once_store.begin(TICK, "b", LONG)) == ["INSERT", "SELECT"]


def test_rows_name_tick_and_prefix(alias: str, backend_of: Callable[..., Any]) -> None:
    """What an operator sees. Times are by the database's clock, whatever the project's time zone is."""
    once_store = backend_of(alias, prefix="proj").once_store()
    once_store.begin(TICK, "a", 3600)
    row = DeliveredTick.objects.using(alias).annotate(now=module.DatabaseNow()).get()
    assert str(row) == f"proj:{TICK}: claimed"
    assert timedelta(minutes=59) < row.ends_at - row.now <= timedelta(hours=1)
    once_store.done(TICK, "a", 7200)
    row = DeliveredTick.objects.using(alias).annotate(now=module.DatabaseNow()).get()
    assert str(row) == f"proj:{TICK}: done"
    assert timedelta(minutes=119) < row.ends_at - row.now <= timedelta(hours=2)


def test_deployments_do_not_meet(alias: str, backend_of: Callable[..., Any]) -> None:
    """They share a database, each with its prefix."""
    backend_of(alias, prefix="one").once_store().done(TICK, "a", LONG)
    assert backend_of(alias, prefix="two").once_store().begin(TICK, "b", LONG).may_run


def test_a_name_that_does_not_fit_is_refused(sqlite_alias: str, backend_of: Callable[..., Any]) -> None:
    """Cut off, it would be another tick's."""
    with pytest.raises(ConfigurationError, match="a database keeps 255"):
        backend_of(sqlite_alias, prefix="p" * 250).once_store().begin(TICK, "a", LONG)


def test_what_has_ended_is_deleted_in_batches(
    alias: str, backend_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as batches are full, at each tick; then a look a minute. What lasts is left alone."""
    monkeypatch.setattr(module, "PRUNED_TOGETHER", 3)
    once_store = backend_of(alias).once_store()
    once_store.done("lasts", "a", LONG)
    for number in range(5):
        once_store.done(f"{number}", "a", 0.001)
    rows = DeliveredTick.objects.using(alias)
    eventually(lambda: rows.filter(ends_at__lt=module.DatabaseNow()).count() == 5)
    counts = []
    for number in range(3):
        once_store.begin(f"new{number}", "b", LONG)
        counts.append(rows.count())
    assert counts == [4, 3, 4]
    assert set(rows.values_list("pk", flat=True)) == {"lasts", "new0", "new1", "new2"}


def test_a_delivery_does_not_wait_for_a_transaction_that_runs(
    server_alias: str, backend_of: Callable[..., Any]
) -> None:
    """Nothing is locked while the task runs: others are told at once that it does."""
    one, two = backend_of(server_alias).once_store(), backend_of(server_alias, timeout=2).once_store()
    one.begin(TICK, "a", LONG)
    with one.transaction(TICK, "a", LONG):
        write(server_alias, "a")
        assert two.begin(TICK, "b", LONG).wait > 0
    assert two.begin(TICK, "b", LONG).is_done
    assert written(server_alias) == ["a"]


def test_a_write_and_its_note_are_committed_together(alias: str, backend_of: Callable[..., Any]) -> None:
    """Or neither."""
    once_store = backend_of(alias).once_store()
    once_store.begin(TICK, "a", LONG)
    with pytest.raises(IntegrityError), once_store.transaction(TICK, "a", LONG):
        Fence.objects.using(alias).bulk_create([Fence(election=name, token=1) for name in "aba"])
    assert written(alias) == []
    assert once_store.begin(TICK, "a", LONG).may_run
    with once_store.transaction(TICK, "a", LONG):
        write(alias, "a")
    assert written(alias) == ["a"]
    assert once_store.begin(TICK, "b", LONG).is_done


def test_a_transaction_whose_claim_was_taken_over_is_rolled_back(alias: str, backend_of: Callable[..., Any]) -> None:
    """However the clocks went, and whether the other has ended or not."""
    once_store = backend_of(alias).once_store()
    for finish in (lambda: None, lambda: once_store.done(TICK, "b", LONG), lambda: once_store.release(TICK, "b")):
        DeliveredTick.objects.using(alias).all().delete()
        once_store.begin(TICK, "a", SHORT)
        eventually(lambda: once_store.begin(TICK, "b", LONG).may_run)
        finish()
        with pytest.raises(RecordConflict), once_store.transaction(TICK, "a", LONG):
            write(alias, "a")
    assert written(alias) == []


def test_of_many_runs_whose_claims_ended_one_commits(server_alias: str, backend_of: Callable[..., Any]) -> None:
    """Eight ran beside each other, because each claim was too short: the last to claim it has the effect."""
    once_store = backend_of(server_alias).once_store()
    for index in range(8):
        eventually(lambda index=index: once_store.begin(TICK, f"{index}", SHORT).may_run)

    def run(index: int) -> None:
        try:
            with once_store.transaction(TICK, f"{index}", LONG):
                write(server_alias, f"{index}")
        finally:
            connections[server_alias].close()

    results = race(8, run)
    assert results[7] is None
    assert [type(result) for result in results[:7]] == [RecordConflict] * 7
    assert written(server_alias) == ["7"]


def test_a_database_that_is_locked_gives_no_answer(server_alias: str, backend_of: Callable[..., Any]) -> None:
    """In no more time than it may take; afterwards the tick is free."""
    once_store = backend_of(server_alias, timeout=1).once_store()
    with transaction.atomic(using=server_alias):
        DeliveredTick.objects.using(server_alias).create(tick=TICK, owner="a", ends_at=module.DatabaseNow())
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            once_store.begin(TICK, "b", LONG)
        assert time.monotonic() - begun < 3
    assert once_store.begin(TICK, "b", LONG).may_run


@pytest.fixture
def task(alias: str) -> Any:
    """Make an atomic task on a database: what it does is to be given, and more decorators may be."""
    apps: list[Celery] = []

    def make(act: Callable[[], Any], *, guard: Callable[[Any], Any] = lambda run: run, **options: Any) -> Task:
        app = Celery("proj", broker="memory://", backend="cache+memory://", set_as_current=False)
        app.conf.update(leader_backend=f"django-db://{alias}")
        celery_leader.setup(app)
        apps.append(app)

        def run() -> Any:
            return act()

        atomic = once_per_tick(atomic=True, timeout=60)
        return app.task(name="invoices", shared=False, **options)(atomic(guard(run)))

    yield make
    for app in apps:
        once_store_of(app)._store.close()
        app.AsyncResult(TICK).forget()
        app.close()


def test_an_atomic_task_has_its_effect_once(alias: str, task: Callable[..., Task]) -> None:
    """It fails, and nothing is there; it succeeds; it is delivered again."""
    runs = []

    def act() -> None:
        write(alias, f"run {len(runs)}")
        runs.append(len(runs))
        if len(runs) == 1:
            raise ValueError("no")

    made = task(act)
    assert deliver(made, id=TICK).state == "FAILURE"
    assert written(alias) == []
    assert deliver(made, id=TICK) is None
    assert is_dropped(deliver(made, id=TICK))
    assert written(alias) == ["run 1"]


def test_an_atomic_task_that_ignores_itself_is_committed(alias: str, task: Callable[..., Task]) -> None:
    """It ended well. One that a follower turned away did not begin."""

    def act() -> None:
        write(alias, "a")
        raise Ignore

    made = task(act)
    assert is_dropped(deliver(made, id=TICK))
    assert written(alias) == ["a"]
    assert DeliveredTick.objects.using(alias).get().done
    DeliveredTick.objects.using(alias).all().delete()
    skipped = task(act, guard=leader_only(on_follower="skip"))
    assert is_dropped(deliver(skipped, id=TICK, headers={DUE_HEADER: DUE.isoformat(), TO_FOLLOWER_HEADER: True}))
    assert not DeliveredTick.objects.using(alias).exists()


def test_an_atomic_task_that_was_overtaken_is_put_off(alias: str, task: Callable[..., Task]) -> None:
    """What it wrote is gone; the message stays until the other is done."""

    def act() -> None:
        DeliveredTick.objects.using(alias).update(owner="other")
        write(alias, "a")

    made = task(act)
    taken(made.app)
    assert is_dropped(deliver(made, id=TICK))
    assert [message.headers["id"] for message in taken(made.app)] == [TICK]
    assert written(alias) == []


def test_a_task_that_breaks_its_transaction_fails(alias: str, task: Callable[..., Task]) -> None:
    """And may run again at once."""

    def act() -> None:
        write(alias, "a")
        write(alias, "a")

    info = deliver(task(act), id=TICK)
    assert isinstance(info.retval, IntegrityError)
    assert written(alias) == []
    assert not DeliveredTick.objects.using(alias).exists()
