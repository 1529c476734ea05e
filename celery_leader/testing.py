"""What tests need: a clock to turn, a lock to script, and the contracts that locks and ledgers must keep.

The contracts are classes of pytest tests. A third-party lock passes when a subclass of :class:`LockContract` that
overrides :meth:`~LockContract.make_lock` does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from celery_leader.election import ElectionRecord, Lock, StoredRecord, SystemClock, Term, Trust, new_identity
from celery_leader.exceptions import LeadershipLost, RecordConflict, RecordNotFound
from celery_leader.leadership.cell import Cell
from celery_leader.leadership.state import registered
from celery_leader.ledger import Claim, Ledger, Tick


class FakeClock:
    """A clock that moves only when told to. Monotonic and wall time move together unless set apart."""

    def __init__(self, start: float = 1000.0, now: datetime | None = None) -> None:
        """Start at *start* monotonic seconds and the wall time *now* (2026-01-01 UTC when omitted)."""
        self._monotonic = start
        self._now = now or datetime(2026, 1, 1, tzinfo=timezone.utc)

    def monotonic(self) -> float:
        """See :meth:`celery_leader.election.Clock.monotonic`."""
        return self._monotonic

    def utcnow(self) -> datetime:
        """See :meth:`celery_leader.election.Clock.utcnow`."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock *seconds* ahead (or back), as an administrator or NTP does."""
        self._now += timedelta(seconds=seconds)


class ScriptedLock:
    """A lock that answers as it was told, call by call, and refuses any call that was not scripted.

    A script is a list of (method, answer). An answer is a value to return, an exception to raise, or a callable
    that is called with the arguments of the call and returns or raises. ``ScriptedLock.STORED`` answers a write with
    what it wrote.
    """

    STORED = object()

    def __init__(self, script: Iterable[tuple[str, Any]]) -> None:
        """Take the script."""
        self.script = list(script)
        self.calls: list[str] = []

    def get(self) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.get`."""
        return self._answer("get")

    def create(self, record: ElectionRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.create`."""
        return self._answer("create", record)

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.update`."""
        return self._answer("update", record, previous)

    def wait(self, timeout: float) -> None:
        """See :meth:`celery_leader.election.Lock.wait`."""

    def interrupt(self) -> None:
        """See :meth:`celery_leader.election.Lock.interrupt`."""

    def describe(self) -> str:
        """See :meth:`celery_leader.election.Lock.describe`."""
        return "script"

    def close(self) -> None:
        """See :meth:`celery_leader.election.Lock.close`."""

    def assert_done(self) -> None:
        """Fail when part of the script was not called."""
        assert not self.script, f"never called: {self.script}"

    def _answer(self, method: str, *arguments: Any) -> StoredRecord:
        self.calls.append(method)
        assert self.script, f"{method}() is not in the script, which has ended; calls so far: {self.calls}"
        expected, answer = self.script.pop(0)
        assert expected == method, f"expected {expected}(), got {method}(); calls so far: {self.calls}"
        if answer is self.STORED:
            return StoredRecord(arguments[0], len(self.calls))
        if isinstance(answer, BaseException):
            raise answer
        result: StoredRecord = answer(*arguments) if callable(answer) else answer
        return result


@contextmanager
def forced_leader(election: str = "default", *, fencing_token: int = 1) -> Iterator[Term]:
    """Let this process lead *election* for a while, without a worker or a store: for tests of applications.

    Args:
        election: The only election that this process takes part in meanwhile.
        fencing_token: The token of the term.
    """
    term = Term(election, new_identity("forced"), fencing_token)
    now = SystemClock().monotonic()
    cell = Cell.create()
    cell.publish(Trust(term, renewed_at=now, until=now + 3600))
    cell.publish_leader(term.identity)
    with registered({election: cell}):
        yield term


def sample_record(**changes: Any) -> ElectionRecord:
    """Return a record with every field set, changed by *changes*."""
    now = datetime(2026, 11, 23, 8, 30, 0, 123456, tzinfo=timezone.utc)
    record = ElectionRecord("celery@web-1/4121/9f3c2a10", 15.0, now, now, 3, 1_795_400_000_123)
    return replace(record, **changes)


def _race(count: int, action: Callable[[int], object]) -> list[object]:
    """Run *action* in *count* threads that start together; return what each returned or raised."""
    barrier = threading.Barrier(count)
    results: list[object] = [None] * count

    def run(index: int) -> None:
        barrier.wait(10)
        try:
            results[index] = action(index)
        except Exception as error:  # noqa: BLE001  # the caller looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


class LockContract:
    """What every :class:`~celery_leader.election.Lock` must do."""

    #: Whether :meth:`wait` of another lock object is told of a change of holder. A hint, so some locks only poll.
    tells_of_changes = False

    def make_lock(self, election: str = "default") -> Lock:
        """Return a new lock object; all that are made for one election in one test share its record.

        At the start of a test no record exists.
        """
        raise NotImplementedError

    def test_get_of_no_record_is_not_found(self) -> None:
        """Absence is an answer of its own."""
        _raises(RecordNotFound, self.make_lock().get)

    def test_created_record_comes_back_equal(self) -> None:
        """Every field survives: microseconds, a token above 2**53, text beyond ASCII."""
        record = sample_record(holder_identity="celery@wéb-1/1/ж", fencing_token=2**53 + 1)
        created = self.make_lock().create(record)
        assert created.record == record
        assert self.make_lock().get() == created

    def test_record_of_defaults_comes_back_equal(self) -> None:
        """Times may be absent."""
        self.make_lock().create(ElectionRecord())
        assert self.make_lock().get().record == ElectionRecord()

    def test_create_refuses_when_there_is_a_record(self) -> None:
        """The first record wins and is left as it is."""
        created = self.make_lock().create(sample_record())
        _raises(RecordConflict, lambda: self.make_lock().create(sample_record(holder_identity="other")))
        assert self.make_lock().get() == created

    def test_update_replaces_what_was_seen(self) -> None:
        """Read, change, write, by another object than the writer's."""
        self.make_lock().create(sample_record())
        lock = self.make_lock()
        updated = lock.update(sample_record(holder_identity="b", fencing_token=2**60), lock.get())
        assert self.make_lock().get() == updated
        assert updated.record.fencing_token == 2**60

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
        _raises(RecordConflict, lambda: lock.update(sample_record(holder_identity="c"), old))
        assert self.make_lock().get() == new

    def test_update_refuses_when_equal_values_were_written_since(self) -> None:
        """A renewal within one tick of a coarse or stopped wall clock is a change all the same."""
        lock = self.make_lock()
        old = lock.create(sample_record())
        again = lock.update(sample_record(), old)
        assert again.version != old.version
        _raises(RecordConflict, lambda: lock.update(sample_record(holder_identity="c"), old))

    def test_update_refuses_when_there_is_no_record(self) -> None:
        """What is gone is not what was seen."""
        _raises(RecordConflict, lambda: self.make_lock().update(sample_record(), StoredRecord(sample_record(), "1")))

    def test_elections_are_independent(self) -> None:
        """Two names, two records."""
        self.make_lock("a").create(sample_record(holder_identity="a"))
        _raises(RecordNotFound, self.make_lock("b").get)
        self.make_lock("b").create(sample_record(holder_identity="b"))
        assert self.make_lock("a").get().record.holder_identity == "a"

    def test_of_many_concurrent_creates_one_wins(self) -> None:
        """Eight candidates find an empty store."""
        locks = [self.make_lock() for _ in range(8)]
        results = _race(8, lambda index: locks[index].create(sample_record(holder_identity=f"c{index}")))
        _assert_one_winner(results)

    def test_of_many_concurrent_updates_one_wins(self) -> None:
        """Eight candidates find a vacant lease, five times."""
        locks = [self.make_lock() for _ in range(8)]
        stored = locks[0].create(sample_record())
        for _ in range(5):
            seen = stored

            def update(index: int, seen: StoredRecord = seen) -> StoredRecord:
                return locks[index].update(sample_record(holder_identity=f"c{index}"), seen)

            results = _race(8, update)
            stored = _assert_one_winner(results)
            assert self.make_lock().get() == stored

    def test_no_update_is_lost(self) -> None:
        """Eight threads count in two records, each by read, add, compare-and-swap: the totals are exact."""
        for election in ("a", "b"):
            self.make_lock(election).create(sample_record(leader_transitions=0))

        def count(index: int) -> None:
            lock = self.make_lock("ab"[index % 2])
            done = 0
            while done < 10:
                seen = lock.get()
                try:
                    lock.update(replace(seen.record, leader_transitions=seen.record.leader_transitions + 1), seen)
                except RecordConflict:
                    continue
                done += 1

        assert _race(8, count) == [None] * 8
        assert [self.make_lock(election).get().record.leader_transitions for election in "ab"] == [40, 40]

    def test_wait_sleeps_no_longer_than_it_may(self) -> None:
        """Nothing changes, and the sleep ends."""
        begun = time.monotonic()
        self.make_lock().wait(0.05)
        assert time.monotonic() - begun < 2

    def test_interrupt_ends_a_wait(self) -> None:
        """Another thread can end a long sleep, whether it has begun yet or not."""
        lock = self.make_lock()
        threading.Timer(0.05, lock.interrupt).start()
        begun = time.monotonic()
        lock.wait(30)
        lock.interrupt()
        lock.wait(30)
        assert time.monotonic() - begun < 10

    def test_wait_hears_of_a_release(self) -> None:
        """Locks that tell of changes end a follower's sleep when the holder changes."""
        if not self.tells_of_changes:
            return
        leader, follower = self.make_lock(), self.make_lock()
        stored = leader.create(sample_record())
        follower.wait(0.05)  # from the first wait on it listens
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
        raise AssertionError("the wait was not ended by any of 50 changes of holder")

    def test_close_may_be_repeated_and_undone(self) -> None:
        """A closed lock opens its connections again when it is used."""
        lock = self.make_lock()
        lock.create(sample_record())
        lock.close()
        lock.close()
        assert lock.get().record == sample_record()

    def test_describe_is_text(self) -> None:
        """Logs name the place."""
        assert self.make_lock().describe()


def sample_claim(entry: str = "tick", second: int = 0, **changes: Any) -> Claim:
    """Return a claim of *entry*, due *second* seconds after a fixed moment, changed by *changes*."""
    due = datetime(2026, 11, 23, 9, 0, 0, 654321, tzinfo=timezone.utc) + timedelta(seconds=second)
    claim = Claim(Tick("default", entry, due), f"id-{entry}-{second}", second + 1, due, schedule="every 1 s")
    return replace(claim, **changes)


class LedgerContract:
    """What every :class:`~celery_leader.ledger.Ledger` must do."""

    def make_ledger(self, election: str = "default") -> Ledger:
        """Return a new ledger object; all that are made in one test share what is stored, nothing at its start."""
        raise NotImplementedError

    def lose_data(self) -> None:
        """Empty the store, as a restart without persistence does."""
        raise NotImplementedError

    def test_open_of_nothing_is_empty(self) -> None:
        """The first leader finds no claims."""
        assert dict(self.make_ledger().open(1)) == {}

    def test_claims_come_back_equal(self) -> None:
        """The next leader finds each entry's last claim, to the microsecond."""
        ledger = self.make_ledger()
        ledger.open(2**53 + 1)
        claims = [sample_claim("a", 1), sample_claim("b", 2), sample_claim("ü: 'quoted' {x}", 3, schedule="é" * 50)]
        assert list(ledger.claim(2**53 + 1, claims)) == [True, True, True]
        ledger.claim(2**53 + 1, [sample_claim("a", 5)])
        expected = {claim.tick.entry: claim for claim in [sample_claim("a", 5), *claims[1:]]}
        assert dict(self.make_ledger().open(2**53 + 2)) == expected

    def test_a_tick_is_claimed_once(self) -> None:
        """The same due time, or an earlier one, is refused; others of the batch are not."""
        ledger = self.make_ledger()
        ledger.open(1)
        ledger.claim(1, [sample_claim("a", 5)])
        results = ledger.claim(1, [sample_claim("a", 5), sample_claim("b", 5), sample_claim("a", 4)])
        assert list(results) == [False, True, False]
        assert self.make_ledger().open(1)["a"] == sample_claim("a", 5)

    def test_confirmed_claims_are_sent(self) -> None:
        """Only the confirmed ones, and only while they are the last."""
        ledger = self.make_ledger()
        ledger.open(1)
        ledger.claim(1, [sample_claim("a", 1), sample_claim("b", 1), sample_claim("c", 1)])
        ledger.claim(1, [sample_claim("c", 2)])
        ledger.confirm(1, [sample_claim("a", 1), sample_claim("c", 1)])
        sent = {entry: claim.sent for entry, claim in self.make_ledger().open(1).items()}
        assert sent == {"a": True, "b": False, "c": False}

    def test_a_stale_term_changes_nothing(self) -> None:
        """Once a newer term has opened the ledger, every call of the old one is refused."""
        old, new = self.make_ledger(), self.make_ledger()
        old.open(1)
        old.claim(1, [sample_claim("a", 1)])
        new.open(2)
        _raises(LeadershipLost, lambda: old.open(1))
        _raises(LeadershipLost, lambda: old.claim(1, [sample_claim("b", 1)]))
        _raises(LeadershipLost, lambda: old.confirm(1, [sample_claim("a", 1)]))
        _raises(LeadershipLost, lambda: old.restore(1, [sample_claim("b", 1)]))
        _raises(LeadershipLost, lambda: old.forget(1, ["a"]))
        assert dict(new.open(2)) == {"a": sample_claim("a", 1)}

    def test_lost_data_is_noticed_and_restored(self) -> None:
        """An emptied ledger refuses claims until its leader wrote back what it knows."""
        ledger = self.make_ledger()
        ledger.open(7)
        known = sample_claim("a", 1, sent=True)
        ledger.claim(7, [sample_claim("a", 1)])
        self.lose_data()
        _raises(RecordNotFound, lambda: ledger.claim(7, [sample_claim("a", 2)]))
        _raises(RecordNotFound, lambda: ledger.confirm(7, [sample_claim("a", 1)]))
        ledger.restore(7, [known])
        assert list(ledger.claim(7, [sample_claim("a", 1)])) == [False]
        assert dict(self.make_ledger().open(7)) == {"a": known}

    def test_restore_leaves_later_claims(self) -> None:
        """What the ledger knows better stays."""
        ledger = self.make_ledger()
        ledger.open(1)
        ledger.claim(1, [sample_claim("a", 9)])
        ledger.restore(2, [sample_claim("a", 3), sample_claim("b", 3)])
        assert dict(self.make_ledger().open(2)) == {"a": sample_claim("a", 9), "b": sample_claim("b", 3)}

    def test_forgotten_entries_start_afresh(self) -> None:
        """An entry whose schedule changed may be claimed for any time again."""
        ledger = self.make_ledger()
        ledger.open(1)
        ledger.claim(1, [sample_claim("a", 9), sample_claim("b", 9)])
        ledger.forget(1, ["a", "unknown"])
        assert list(ledger.claim(1, [sample_claim("a", 2)])) == [True]
        assert set(self.make_ledger().open(1)) == {"a", "b"}

    def test_elections_are_independent(self) -> None:
        """Two names, two ledgers."""
        one, two = self.make_ledger("one"), self.make_ledger("two")
        one.open(5)
        two.open(1)
        one.claim(5, [sample_claim("a", 1, tick=replace(sample_claim("a", 1).tick, election="one"))])
        assert dict(two.open(1)) == {}

    def test_of_many_concurrent_claims_of_a_tick_one_wins(self) -> None:
        """Eight processes that all believe to lead the same term claim one tick."""
        ledgers = [self.make_ledger() for _ in range(8)]
        ledgers[0].open(1)
        results = _race(8, lambda index: list(ledgers[index].claim(1, [sample_claim("a", 1)])))
        assert sorted(results, key=str) == [[False]] * 7 + [[True]], results

    def test_hundreds_of_claims_go_together(self) -> None:
        """A batch of 500 is stored and confirmed whole."""
        ledger = self.make_ledger()
        ledger.open(1)
        claims = [sample_claim(f"entry-{number}", number) for number in range(500)]
        assert all(ledger.claim(1, claims))
        ledger.confirm(1, claims)
        stored = self.make_ledger().open(1)
        assert len(stored) == 500
        assert all(claim.sent for claim in stored.values())

    def test_close_may_be_repeated_and_undone(self) -> None:
        """A closed ledger opens its connections again when it is used."""
        ledger = self.make_ledger()
        ledger.open(1)
        ledger.close()
        ledger.close()
        assert list(ledger.claim(1, [sample_claim("a", 1)])) == [True]


def _raises(expected: type[Exception], action: Callable[[], object]) -> None:
    try:
        result = action()
    except expected:
        return
    raise AssertionError(f"expected {expected.__name__}, got {result!r}")


def _assert_one_winner(results: list[object]) -> StoredRecord:
    winners = [result for result in results if isinstance(result, StoredRecord)]
    losers = [result for result in results if isinstance(result, RecordConflict)]
    assert (len(winners), len(losers)) == (1, len(results) - 1), results
    return winners[0]
