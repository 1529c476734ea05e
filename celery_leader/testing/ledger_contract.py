"""The contract of ledgers, as tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from celery_leader.exceptions import LeadershipLost, RecordNotFound, UnstorableClaim
from celery_leader.ledger import Claim, Ledger
from celery_leader.testing.contests import Meet, contest, race, raises, threads_of, values
from celery_leader.testing.samples import sample_claim

OLD, NEW = 7, 2**52  # tokens of two terms
TICKS = 40  # in a contest
HEAD_START = 5  # ticks that the old term claims before the new one comes


class LedgerContract:
    """What every :class:`~celery_leader.ledger.Ledger` must do."""

    def make_ledger(self, election: str = "default") -> Ledger:
        """Return a new ledger object. In one test, all ledgers of an election share its claims; none exist at first."""
        raise NotImplementedError

    def elsewhere(self) -> Callable[[str], Ledger] | None:
        """Return a function that makes such ledgers in another process, and can be pickled.

        Return None when only this process sees the store. Give these ledgers a longer timeout than usual: sixteen
        threads contend at once.
        """
        return None

    def lose_data(self) -> None:
        """Empty the store, as a restart without persistence does."""
        raise NotImplementedError

    def test_open_of_nothing_is_empty(self) -> None:
        """The first leader finds no claims."""
        assert dict(self.make_ledger().open(1)) == {}

    def test_claims_come_back_equal(self) -> None:
        """The next leader finds each entry's last claim, to the microsecond."""
        ledger = self.make_ledger()
        ledger.open(2**52 + 1)
        claims = [sample_claim("a", 1), sample_claim("b", 2), sample_claim("ü: 'quoted' {x}", 3, schedule="é" * 50)]
        assert list(ledger.claim(2**52 + 1, claims)) == [True, True, True]
        ledger.claim(2**52 + 1, [sample_claim("a", 5)])
        expected = {claim.tick.entry: claim for claim in [sample_claim("a", 5), *claims[1:]]}
        assert dict(self.make_ledger().open(2**52 + 2)) == expected

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
        raises(LeadershipLost, lambda: old.open(1))
        raises(LeadershipLost, lambda: old.claim(1, [sample_claim("b", 1)]))
        raises(LeadershipLost, lambda: old.confirm(1, [sample_claim("a", 1)]))
        raises(LeadershipLost, lambda: old.restore(1, [sample_claim("b", 1)]))
        raises(LeadershipLost, lambda: old.forget(1, ["a"]))
        assert dict(new.open(2)) == {"a": sample_claim("a", 1)}

    def test_lost_data_is_noticed_and_restored(self) -> None:
        """An emptied ledger refuses claims until its leader has written back the claims that it knows."""
        ledger = self.make_ledger()
        ledger.open(7)
        known = sample_claim("a", 1, sent=True)
        ledger.claim(7, [sample_claim("a", 1)])
        self.lose_data()
        raises(RecordNotFound, lambda: ledger.claim(7, [sample_claim("a", 2)]))
        raises(RecordNotFound, lambda: ledger.confirm(7, [sample_claim("a", 1)]))
        ledger.restore(7, [known])
        assert list(ledger.claim(7, [sample_claim("a", 1)])) == [False]
        assert dict(self.make_ledger().open(7)) == {"a": known}

    def test_restore_leaves_later_claims(self) -> None:
        """A restored claim replaces no later one."""
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
        results = race(8, lambda index: list(ledgers[index].claim(1, [sample_claim("a", 1)])))
        assert sorted(results, key=str) == [[False]] * 7 + [[True]], results

    def test_of_two_terms_the_newer_claims(self) -> None:
        """Eight threads in each of two processes, for two terms: each tick has one winner.

        The old term wins none once the newer one has opened the ledger.
        """
        self.make_ledger().open(OLD)
        old, new = contest(_claim, self.make_ledger, self.elsewhere())
        wins = sorted(old.wins + new.wins)
        assert [win.second for win in wins] == list(range(TICKS)), wins
        assert len(old.wins) >= HEAD_START
        assert new.wins
        late = [win for win in old.wins if win.begun > new.opened_at]
        assert not late, (late, new.opened_at)
        last = self.make_ledger().open(NEW)["tick"]
        assert (last.tick.due_at, last.task_id) == (sample_claim(second=wins[-1].second).tick.due_at, wins[-1].task_id)

    def test_a_thousand_claims_go_together(self) -> None:
        """A batch has an answer for each claim, in its order. A tick that was claimed before stays as it is."""
        ledger = self.make_ledger()
        ledger.open(1)
        known = [number for number in range(1000) if number % 7 == 0]
        assert all(ledger.claim(1, [sample_claim(f"entry-{number}", 2) for number in known]))
        claims = [sample_claim(f"entry-{number}", 1 + number % 3, run_count=99) for number in range(1000)]
        expected = [number % 7 != 0 or 1 + number % 3 > 2 for number in range(1000)]
        assert list(ledger.claim(1, claims)) == expected
        ledger.confirm(1, claims)
        stored = self.make_ledger().open(1)
        assert len(stored) == 1000
        for number, (claim, taken) in enumerate(zip(claims, expected, strict=True)):
            first = sample_claim(f"entry-{number}", 2)
            assert stored[f"entry-{number}"] == (replace(claim, sent=True) if taken else self._confirmed(first, claim))

    @staticmethod
    def _confirmed(stored: Claim, confirmed: Claim) -> Claim:
        """Return *stored* after *confirmed* was confirmed: it is sent if both are of the same tick."""
        return replace(stored, sent=stored.tick == confirmed.tick)

    def test_the_same_entry_may_come_twice_in_a_batch(self) -> None:
        """Of two ticks the later one counts, in either order."""
        ledger = self.make_ledger()
        ledger.open(1)
        claims = [sample_claim("a", 1), sample_claim("a", 2), sample_claim("b", 2), sample_claim("b", 1)]
        assert list(ledger.claim(1, claims)) == [True, True, True, False]
        assert dict(self.make_ledger().open(1)) == {"a": claims[1], "b": claims[2]}

    def test_an_empty_batch_is_nothing(self) -> None:
        """A stale term is refused all the same."""
        ledger = self.make_ledger()
        ledger.open(2)
        assert list(ledger.claim(2, [])) == []
        ledger.confirm(2, [])
        ledger.forget(2, [])
        raises(LeadershipLost, lambda: ledger.claim(1, []))

    def test_the_greatest_token_is_the_last(self) -> None:
        """Tokens stay below 2**53 and are compared as numbers."""
        ledger = self.make_ledger()
        for second, token in enumerate((9, 10, 2**52, 2**52 + 1, 2**53 - 2, 2**53 - 1)):
            ledger.open(token)
            raises(LeadershipLost, partial(ledger.claim, token - 1, [sample_claim(second=second)]))
            assert list(ledger.claim(token, [sample_claim(second=second)])) == [True]

    def test_entries_may_have_any_name(self) -> None:
        """Long, in any script, with any sign; two names that differ in case are two."""
        ledger = self.make_ledger()
        ledger.open(1)
        names = ["e" * 500, "задача 🕰 日程", 'it\'s "100 %s" {x}; --', "a:b|c", "token", "Tick", "tick"]
        claims = [sample_claim(name, 1) for name in names]
        assert all(ledger.claim(1, claims))
        ledger.confirm(1, claims[1:])
        ledger.forget(1, names[:1])
        assert dict(ledger.open(1)) == {claim.tick.entry: replace(claim, sent=True) for claim in claims[1:]}

    def test_a_claim_that_cannot_be_stored_is_refused(self) -> None:
        """A name that the store can't keep has an error of its own, and nothing of its batch is stored."""
        ledger = self.make_ledger()
        ledger.open(1)
        names = ["with\0NUL", "half \ud800 a pair", "n" * 100_000, "controls \x1b[31m\r\n\u202e"]
        for number, name in enumerate(names):
            batch = [sample_claim(f"good-{number}", 1), sample_claim(name, 1)]
            for call in (partial(ledger.claim, 1, batch), partial(ledger.restore, 1, batch)):
                try:
                    call()
                except UnstorableClaim:
                    assert f"good-{number}" not in self.make_ledger().open(1)
                else:
                    stored = self.make_ledger().open(1)
                    assert {entry: stored.get(entry) for entry in (f"good-{number}", name)} == {
                        claim.tick.entry: claim for claim in batch
                    }
            assert list(ledger.claim(1, [sample_claim(f"good-{number}", 2)])) == [True]

    def test_close_may_be_repeated_and_undone(self) -> None:
        """A closed ledger opens its connections again when it is used."""
        ledger = self.make_ledger()
        ledger.open(1)
        ledger.close()
        ledger.close()
        assert list(ledger.claim(1, [sample_claim("a", 1)])) == [True]


class _Win(NamedTuple):
    """A tick that a thread claimed: its second, its task id, and when the call began (monotonic, for all processes)."""

    second: int
    task_id: str
    begun: float


class _Wins(NamedTuple):
    """The ticks that a player claimed, and when the ledger had answered its open()."""

    wins: list[_Win]
    opened_at: float


def _claim(make: Callable[[str], Ledger], process: int, meet: Meet) -> _Wins:
    """Claim one tick after the other: player 0 for the old term until it is refused, the other for the new term."""
    opened_at = 0.0

    def claim(thread: int, meet: Meet) -> list[_Win]:
        with closing(make("default")) as ledger:
            wins = []
            if process == 0:
                wins = _wins(ledger, OLD, thread, range(HEAD_START))
            meet()
            if process == 0:
                return wins + _wins(ledger, OLD, thread, range(HEAD_START, TICKS - 1))
            open_new(ledger)
            return _wins(ledger, NEW, thread, range(TICKS))

    def open_new(ledger: Ledger) -> None:
        nonlocal opened_at
        ledger.open(NEW)
        opened_at = opened_at or time.monotonic()

    every = [win for wins in values(threads_of(meet, claim)) for win in wins]
    return _Wins(every, opened_at)


def _wins(ledger: Ledger, token: int, thread: int, seconds: range) -> list[_Win]:
    wins = []
    for second in seconds:
        task_id, begun = f"{token}/{thread}/{second}", time.monotonic()
        try:
            (won,) = ledger.claim(token, [sample_claim(second=second, task_id=task_id)])
        except LeadershipLost:
            assert token == OLD
            break
        if won:
            wins.append(_Win(second, task_id, begun))
    return wins
