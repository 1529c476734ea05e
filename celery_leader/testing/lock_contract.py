"""The contract of locks, as tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import chain

from celery_leader.election import ElectionRecord, Lock, StoredRecord
from celery_leader.exceptions import RecordConflict, RecordNotFound
from celery_leader.testing.contests import Meet, assert_one_winner, contest, race, raises, threads_of, values
from celery_leader.testing.samples import sample_record

#: Names that a user may give to an election.
NAMES = ("n" * 200, "выборы 選舉 🗳", 'it\'s "100 %s" {x}; --', "a/b:c*?", "Default")
ROUNDS = 3  # of a contest to create
UPDATES = 40  # in a contest to update


class LockContract:
    """What every :class:`~celery_leader.election.Lock` must do."""

    #: Whether a change of holder ends the :meth:`wait` of another lock object. Some stores notify, others are polled.
    notifies = False

    def make_lock(self, election: str = "default") -> Lock:
        """Return a new lock object. In one test, all locks of an election share its record.

        At the start of a test no record exists.
        """
        raise NotImplementedError

    def elsewhere(self) -> Callable[[str], Lock] | None:
        """Return a function that makes such locks in another process, and can be pickled.

        Return None when only this process sees the store. Give these locks a longer timeout than usual: sixteen
        threads contend at once.
        """
        return None

    def test_get_of_no_record_is_not_found(self) -> None:
        """Absence is an answer of its own."""
        raises(RecordNotFound, self.make_lock().get)

    def test_created_record_comes_back_equal(self) -> None:
        """Every field survives: microseconds, a great token, text beyond ASCII."""
        record = sample_record(holder_identity="celery@wéb-1/1/ж", fencing_token=2**52 + 1)
        created = self.make_lock().create(record)
        assert created.record == record
        assert self.make_lock().get() == created

    def test_record_of_defaults_comes_back_equal(self) -> None:
        """Times may be absent."""
        self.make_lock().create(ElectionRecord())
        assert self.make_lock().get().record == ElectionRecord()

    def test_the_greatest_token_comes_back_equal(self) -> None:
        """Tokens stay below 2**53, transitions too; neither overflows or is rounded."""
        lock = self.make_lock()
        stored = lock.create(sample_record(fencing_token=2**53 - 2))
        stored = lock.update(sample_record(fencing_token=2**53 - 1, leader_transitions=2**53 - 1), stored)
        assert self.make_lock().get() == stored
        assert stored.record.fencing_token == 2**53 - 1

    def test_long_identities_come_back_equal(self) -> None:
        """A node may have any name, in any script."""
        record = sample_record(holder_identity="celery@" + "вéb𝄞" * 250 + "'\"\\\n{}%s/1/2")
        self.make_lock().create(record)
        assert self.make_lock().get().record == record

    def test_elections_may_have_any_name(self) -> None:
        """Each name is an election of its own, whatever characters it has."""
        for name in NAMES:
            self.make_lock(name).create(sample_record(holder_identity=name))
        for name in NAMES:
            assert self.make_lock(name).get().record.holder_identity == name
        raises(RecordNotFound, self.make_lock().get)

    def test_create_refuses_when_there_is_a_record(self) -> None:
        """The first record wins and is left as it is."""
        created = self.make_lock().create(sample_record())
        raises(RecordConflict, lambda: self.make_lock().create(sample_record(holder_identity="other")))
        assert self.make_lock().get() == created

    def test_update_replaces_what_was_seen(self) -> None:
        """Read, change, write, by another object than the writer's."""
        self.make_lock().create(sample_record())
        lock = self.make_lock()
        updated = lock.update(sample_record(holder_identity="b", fencing_token=2**50), lock.get())
        assert self.make_lock().get() == updated
        assert updated.record.fencing_token == 2**50

    def test_update_goes_on_from_its_own_result(self) -> None:
        """A leader renews without reading."""
        lock = self.make_lock()
        stored = lock.create(sample_record())
        for transitions in range(5):
            stored = lock.update(sample_record(leader_transitions=transitions), stored)
        assert self.make_lock().get() == stored

    def test_update_refuses_when_the_record_changed(self) -> None:
        """A stale writer changes nothing."""
        lock = self.make_lock()
        old = lock.create(sample_record())
        new = lock.update(sample_record(holder_identity="b"), old)
        raises(RecordConflict, lambda: lock.update(sample_record(holder_identity="c"), old))
        assert self.make_lock().get() == new

    def test_update_refuses_when_equal_values_were_written_since(self) -> None:
        """A renewal within one tick of a coarse or stopped wall clock is a change all the same."""
        lock = self.make_lock()
        old = lock.create(sample_record())
        again = lock.update(sample_record(), old)
        assert again.version != old.version
        raises(RecordConflict, lambda: lock.update(sample_record(holder_identity="c"), old))

    def test_update_refuses_when_there_is_no_record(self) -> None:
        """A record that is gone is not the one that the writer has read."""
        raises(RecordConflict, lambda: self.make_lock().update(sample_record(), StoredRecord(sample_record(), "1")))

    def test_elections_are_independent(self) -> None:
        """Two names, two records."""
        self.make_lock("a").create(sample_record(holder_identity="a"))
        raises(RecordNotFound, self.make_lock("b").get)
        self.make_lock("b").create(sample_record(holder_identity="b"))
        assert self.make_lock("a").get().record.holder_identity == "a"

    def test_of_many_concurrent_creates_one_wins(self) -> None:
        """Eight candidates find an empty store."""
        locks = [self.make_lock() for _ in range(8)]
        results = race(8, lambda index: locks[index].create(sample_record(holder_identity=f"c{index}")))
        assert_one_winner(results)

    def test_of_many_concurrent_updates_one_wins(self) -> None:
        """Eight candidates find a vacant lease, five times."""
        locks = [self.make_lock() for _ in range(8)]
        stored = locks[0].create(sample_record())
        for _ in range(5):
            seen = stored

            def update(index: int, seen: StoredRecord = seen) -> StoredRecord:
                return locks[index].update(sample_record(holder_identity=f"c{index}"), seen)

            results = race(8, update)
            stored = assert_one_winner(results)
            assert self.make_lock().get() == stored

    def test_of_two_processes_one_creates(self) -> None:
        """Eight threads in each of two processes find an empty store, three times."""
        for outcomes in zip(*contest(_create, self.make_lock, self.elsewhere()), strict=True):
            flat = [outcome for process in outcomes for outcome in process]
            assert flat.count("created") == 1, flat
            assert flat.count("conflict") == len(flat) - 1, flat

    def test_of_two_processes_one_updates(self) -> None:
        """Eight threads in each of two processes count together, and no step is lost or done twice."""
        self.make_lock().create(sample_record(leader_transitions=0, fencing_token=1))
        steps = contest(_update, self.make_lock, self.elsewhere())
        assert sorted(chain.from_iterable(steps)) == list(range(1, UPDATES + 1)), steps
        assert self.make_lock().get().record.fencing_token == 1 + UPDATES

    def test_wait_sleeps_no_longer_than_it_may(self) -> None:
        """The sleep ends although nothing changes."""
        begun = time.monotonic()
        self.make_lock().wait(0.05)
        assert time.monotonic() - begun < 2

    def test_interrupt_ends_a_wait(self) -> None:
        """Another thread can end a long sleep, even before it begins."""
        lock = self.make_lock()
        threading.Timer(0.05, lock.interrupt).start()
        begun = time.monotonic()
        lock.wait(30)
        lock.interrupt()
        lock.wait(30)
        assert time.monotonic() - begun < 10

    def test_wait_hears_of_a_release(self) -> None:
        """Locks that notify end a follower's sleep when the holder changes."""
        if not self.notifies:
            return
        leader, follower = self.make_lock(), self.make_lock()
        stored = leader.create(sample_record())
        follower.wait(0.05)  # the first wait starts listening
        heard = threading.Event()

        def listen() -> None:
            follower.wait(30)
            heard.set()

        threading.Thread(target=listen, daemon=True).start()
        for _ in range(50):  # listening may begin a moment after wait() does
            stored = leader.update(replace(stored.record, holder_identity=""), stored)
            stored = leader.update(replace(stored.record, holder_identity="a"), stored)
            if heard.wait(0.1):
                return
        raise AssertionError("none of 50 changes of holder ended the wait")

    def test_close_may_be_repeated_and_undone(self) -> None:
        """A closed lock opens its connections again when it is used."""
        lock = self.make_lock()
        lock.create(sample_record())
        lock.close()
        lock.close()
        assert lock.get().record == sample_record()

    def test_describe_is_text(self) -> None:
        """Logs name the store."""
        assert self.make_lock().describe()


def _create(make: Callable[[str], Lock], process: int, meet: Meet) -> list[list[str]]:
    """Create the record of one election after the other; return the threads' outcomes, by election."""

    def create(thread: int, meet: Meet) -> list[str]:
        outcomes = []
        for number in range(ROUNDS):
            with closing(make(f"contest-{number}")) as lock:
                meet()
                try:
                    lock.create(sample_record(holder_identity=f"{process}/{thread}"))
                    outcomes.append("created")
                except RecordConflict:
                    outcomes.append("conflict")
        return outcomes

    return [list(outcomes) for outcomes in zip(*values(threads_of(meet, create)), strict=True)]


def _update(make: Callable[[str], Lock], process: int, meet: Meet) -> list[int]:
    """Count up to the end; return the numbers that this player wrote."""

    def update(thread: int, meet: Meet) -> list[int]:
        done = []
        with closing(make("default")) as lock:
            meet()
            while (stored := lock.get()).record.leader_transitions < UPDATES:
                number = stored.record.leader_transitions + 1
                holder = f"{process}/{thread}"
                try:
                    lock.update(
                        sample_record(holder_identity=holder, leader_transitions=number, fencing_token=number + 1),
                        stored,
                    )
                    done.append(number)
                except RecordConflict:
                    continue
        return done

    return [number for numbers in values(threads_of(meet, update)) for number in numbers]
