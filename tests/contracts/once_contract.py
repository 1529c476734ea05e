"""What every once store must do."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery_leader.backends import Admission, OnceStore
from celery_leader.testing.contests import race

TICK = "8f2c1b9e-4a57-5d7a-9d64-0a4c7c1d2e3f"
#: A claim or note that does not end while a test runs, and one that does (seconds).
LONG, SHORT = 600.0, 0.05


class OnceStoreContract:
    """What every :class:`~celery_leader.backends.OnceStore` must do."""

    def make_once_store(self) -> OnceStore:
        """Return a new object; all that are made in one test share what is stored, nothing at its start."""
        raise NotImplementedError

    def test_the_first_delivery_may_run(self) -> None:
        """Nothing is known of a tick that was never delivered."""
        assert self.make_once_store().begin(TICK, "a", LONG) == Admission(may_run=True)

    def test_another_delivery_may_not_run_beside_it(self) -> None:
        """It is told how long to wait at most."""
        self.make_once_store().begin(TICK, "a", LONG)
        admission = self.make_once_store().begin(TICK, "b", LONG)
        assert not admission.may_run
        assert not admission.is_done
        assert LONG - 60 < admission.wait <= LONG

    def test_what_is_done_is_done(self) -> None:
        """For all deliveries, the one that did it included."""
        once_store = self.make_once_store()
        once_store.begin(TICK, "a", LONG)
        assert once_store.done(TICK, "a", LONG)
        for owner in ("a", "b"):
            assert self.make_once_store().begin(TICK, owner, LONG) == Admission(is_done=True)

    def test_a_repeated_call_is_answered_alike(self) -> None:
        """Whoever got no answer to the first asks again under the same name."""
        once_store = self.make_once_store()
        once_store.begin(TICK, "a", LONG)
        assert self.make_once_store().begin(TICK, "a", LONG).may_run
        assert not self.make_once_store().begin(TICK, "b", LONG).may_run
        assert once_store.done(TICK, "a", LONG)

    def test_a_released_tick_may_run_at_once(self) -> None:
        """A task that failed is tried again."""
        once_store = self.make_once_store()
        once_store.begin(TICK, "a", LONG)
        once_store.release(TICK, "a")
        assert self.make_once_store().begin(TICK, "b", LONG).may_run

    def test_only_its_owner_releases_a_claim(self) -> None:
        """And nobody releases what is done."""
        once_store = self.make_once_store()
        once_store.release(TICK, "a")
        once_store.begin(TICK, "a", LONG)
        once_store.release(TICK, "b")
        assert not once_store.begin(TICK, "b", LONG).may_run
        once_store.done(TICK, "a", LONG)
        once_store.release(TICK, "a")
        assert once_store.begin(TICK, "b", LONG).is_done

    def test_a_claim_ends_by_itself(self) -> None:
        """Its process was killed; the first to ask after that takes its place, and it is one."""
        once_store = self.make_once_store()
        once_store.begin(TICK, "a", SHORT)
        _until(lambda: once_store.begin(TICK, "b", LONG).may_run)
        assert not once_store.begin(TICK, "a", LONG).may_run

    def test_a_note_ends_by_itself(self) -> None:
        """The store does not grow for ever."""
        once_store = self.make_once_store()
        once_store.begin(TICK, "a", LONG)
        once_store.done(TICK, "a", SHORT)
        _until(lambda: once_store.begin(TICK, "b", LONG).may_run)

    def test_done_is_a_fact_even_when_the_claim_has_ended(self) -> None:
        """It was run to its end; that another runs it too by now is told, and its failure changes nothing."""
        once_store = self.make_once_store()
        once_store.begin(TICK, "a", SHORT)
        _until(lambda: once_store.begin(TICK, "b", LONG).may_run)
        assert not once_store.done(TICK, "a", LONG)
        once_store.release(TICK, "b")
        assert once_store.begin(TICK, "c", LONG).is_done

    def test_done_needs_no_claim(self) -> None:
        """A store that lost its data is told all the same."""
        assert not self.make_once_store().done(TICK, "a", LONG)
        assert self.make_once_store().begin(TICK, "b", LONG).is_done

    def test_ticks_are_independent(self) -> None:
        """Two ids, two claims."""
        once_store = self.make_once_store()
        once_store.begin(TICK, "a", LONG)
        assert once_store.begin(TICK[::-1], "b", LONG).may_run

    def test_of_many_deliveries_at_once_one_may_run(self) -> None:
        """Eight workers get the message, and again when the one that had it failed."""
        every = [self.make_once_store() for _ in range(8)]
        for _ in range(3):
            may_run = race(8, lambda index: every[index].begin(TICK, f"{index}", LONG).may_run)
            assert sorted(may_run, key=str) == [False] * 7 + [True]
            winner = may_run.index(True)
            every[winner].release(TICK, f"{winner}")

    def test_of_many_that_find_a_claim_ended_one_may_run(self) -> None:
        """The worker that had it was killed."""
        every = [self.make_once_store() for _ in range(8)]
        every[0].begin(TICK, "killed", SHORT)
        _until(lambda: every[0].begin(TICK, "probe", SHORT).may_run)
        owners: list[str] = []

        def run(index: int) -> None:
            admission = every[index].begin(TICK, f"{index}", LONG)
            while not admission.may_run and admission.wait < LONG / 2:  # the probe's has not ended yet
                admission = every[index].begin(TICK, f"{index}", LONG)
            owners.extend([f"{index}"] * admission.may_run)

        assert race(8, run) == [None] * 8
        assert len(owners) == 1

    def test_one_object_serves_many_threads(self) -> None:
        """A pool of threads shares it."""
        once_store = self.make_once_store()
        may_run = race(8, lambda index: once_store.begin(TICK, f"{index}", LONG).may_run)
        assert sorted(may_run, key=str) == [False] * 7 + [True]

    def test_close_may_be_repeated_and_undone(self) -> None:
        """A closed object opens its connections again when it is used."""
        once_store = self.make_once_store()
        once_store.close()
        once_store.begin(TICK, "a", LONG)
        once_store.close()
        once_store.close()
        assert once_store.done(TICK, "a", LONG)


def _until(condition: Callable[[], bool]) -> None:
    """Ask again and again until *condition* holds, for ten seconds at most."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not end by itself"
        time.sleep(0.01)
