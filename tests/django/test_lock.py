"""What a lock in a database promises beyond the contract."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction

from celery_leader.django.models import Election, Fence
from celery_leader.election import StoredRecord
from celery_leader.exceptions import RecordConflict, StoreUnavailable
from celery_leader.testing import sample_record
from tests.django.conftest import race, takeover

if TYPE_CHECKING:
    from collections.abc import Callable


TIMEOUT = 1.0
# What a busy machine may add to a call that ended in time.
SLACK = 0.5


class TestRow:
    """What is in the table."""

    def test_name_carries_the_prefix(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Two deployments share a database; without a prefix the name is the election's."""
        for prefix in ("one", "two", ""):
            backend_of(alias, prefix=prefix).lock().create(sample_record(holder_identity=prefix))
        names = Election.objects.using(alias).order_by("pk").values_list("pk", "holder_identity")
        assert dict(names) == {"default": "", "one:default": "one", "two:default": "two"}

    def test_names_that_differ_in_case_are_two(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """MySQL's default collation takes "Reports" for "reports"."""
        backend = backend_of(alias)
        backend.lock("reports").create(sample_record(holder_identity="a"))
        backend.lock("Reports").create(sample_record(holder_identity="b"))
        assert backend.lock("reports").get().record.holder_identity == "a"

    def test_deleted_and_made_again_is_another(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """A row of equal values that is not the one that was seen is not replaced."""
        lock = backend_of(alias).lock()
        old = lock.create(sample_record())
        Election.objects.using(alias).all().delete()
        lock.create(sample_record())
        with pytest.raises(RecordConflict):
            lock.update(sample_record(holder_identity="b"), old)

    def test_renewed_at_is_the_databases_time(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Whatever the holder's clock says, and in UTC."""
        long_ago = datetime(2001, 1, 1, tzinfo=timezone.utc)
        lock = backend_of(alias).lock()
        stored = lock.create(sample_record(renew_time=long_ago))
        for _ in range(2):
            renewed_at = Election.objects.using(alias).get().renewed_at
            assert abs(renewed_at - datetime.now(timezone.utc)) < timedelta(seconds=30)
            stored = lock.update(stored.record, stored)


class TestFence:
    """The row that guards lock."""

    def test_follows_the_token(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """It has the token of every new term, and is not written by renewals."""
        lock = backend_of(alias, prefix="proj").lock()
        stored = lock.create(sample_record(fencing_token=5))
        assert Fence.objects.using(alias).get(pk="proj:default").token == 5
        stored = lock.update(takeover(stored), stored)
        assert Fence.objects.using(alias).get(pk="proj:default").token == 6

    def test_stays_when_a_takeover_fails(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Fence and record change together or not at all."""
        lock = backend_of(alias).lock()
        old = lock.create(sample_record(fencing_token=5))
        lock.update(old.record, old)
        with pytest.raises(RecordConflict):
            lock.update(takeover(old), old)
        assert Fence.objects.using(alias).get().token == 5

    def test_is_made_again(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """A takeover does without a fence that somebody deleted, and so does the record made anew beside one."""
        lock = backend_of(alias).lock()
        stored = lock.create(sample_record(fencing_token=5))
        Fence.objects.using(alias).all().delete()
        lock.update(takeover(stored), stored)
        Election.objects.using(alias).all().delete()
        lock.create(sample_record(fencing_token=9))
        assert Fence.objects.using(alias).get().token == 9

    def test_of_many_takeovers_one_wins(self, alias: str, backend_of: Callable[..., Any]) -> None:
        """Eight followers, each with a token of its own; the fence has the winner's, the others are told so."""
        backend = backend_of(alias)
        locks = [backend.lock() for _ in range(8)]
        seen = locks[0].create(sample_record(fencing_token=1))
        for _ in range(3):
            outcomes = race(locks, seen)
            winners = [outcome for outcome in outcomes if isinstance(outcome, StoredRecord)]
            losers = [outcome for outcome in outcomes if isinstance(outcome, RecordConflict)]
            assert (len(winners), len(losers)) == (1, 7), outcomes
            seen = winners[0]
            assert locks[0].get() == seen
            assert Fence.objects.using(alias).get().token == seen.record.fencing_token

    def test_held_by_a_guard_delays_no_renewal(self, server_alias: str, backend_of: Callable[..., Any]) -> None:
        """A guarded transaction may last; the leader renews on, and a takeover waits, but not long."""
        backend = backend_of(server_alias, timeout=TIMEOUT)
        leader, follower = backend.lock(), backend.lock()
        stored = leader.create(sample_record(fencing_token=5))
        follower.get()
        with transaction.atomic(using=server_alias):
            Fence.objects.using(server_alias).select_for_update().get(pk="default")
            for _ in range(3):
                begun = time.monotonic()
                stored = leader.update(stored.record, stored)
                assert time.monotonic() - begun < TIMEOUT / 2
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match=f"django-db://{server_alias}"):
                follower.update(takeover(stored), stored)
            assert time.monotonic() - begun < TIMEOUT + SLACK
        assert leader.get() == stored
        follower.update(takeover(stored), stored)
        assert Fence.objects.using(server_alias).get().token == 6
