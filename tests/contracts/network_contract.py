"""What locks and ledgers must do whose store is reached over TCP: come back in time, and know what they don't know."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import product
from types import MappingProxyType

from celery_leader.election import ElectionConfig, LeaderElector, Lock, Term
from celery_leader.exceptions import StoreUnavailable
from celery_leader.ledger import Ledger
from celery_leader.testing.contests import raises
from celery_leader.testing.doubles import FakeClock
from celery_leader.testing.samples import sample_claim, sample_record
from tests.contracts.proxy import Proxy

TIMEOUT = 0.6
#: What a busy machine may add to a call that ended in time.
SLACK = 0.4
#: Between two bytes: so short that each wait is, and so long that no answer is complete in time.
TRICKLE = TIMEOUT / 6
#: The ways in which an answer can be lost: methods of the proxy.
LOSSES = ("drop_replies", "cut_at_reply")


class _Networked:
    """Where the store is."""

    #: What the request contains that makes a write final, by the kind of write: ``create``, ``renew``, ``takeover``,
    #: ``claim``. A kind that is missing is one request, the first.
    final_requests: Mapping[str, bytes] = MappingProxyType({})

    def address(self) -> tuple[str, int]:
        """Return host and port of the store."""
        raise NotImplementedError

    def _lose_answer(self, proxy: Proxy, how: str, write: str) -> None:
        """Have *proxy* lose the answer to the next *write*."""
        getattr(proxy, how)(self.final_requests.get(write, b""))


class NetworkedLockContract(_Networked):
    """What a :class:`~celery_leader.election.Lock` must do whose store is reached over TCP.

    To be inherited beside :class:`LockContract`, whose :meth:`~LockContract.make_lock` reaches the store directly.
    """

    def make_lock(self, election: str = "default") -> Lock:
        """See :meth:`LockContract.make_lock`."""
        raise NotImplementedError

    def make_lock_through(self, address: tuple[str, int], timeout: float, election: str = "default") -> Lock:
        """Return a lock that reaches the same store at *address*, and whose calls may take *timeout* seconds."""
        raise NotImplementedError

    def test_a_creation_whose_answer_is_lost_is_done_and_no_answer(self) -> None:
        """The caller learns that it knows nothing; the store holds what was written."""
        with Proxy(self.address()) as proxy:
            for how in LOSSES:
                with closing(self.make_lock_through(proxy.address, TIMEOUT, how)) as lock:
                    self._lose_answer(proxy, how, "create")
                    _unanswered(partial(lock.create, sample_record()))
                    proxy.heal()
                    assert self.make_lock(how).get() == lock.get()
                    assert lock.get().record == sample_record()

    def test_an_update_whose_answer_is_lost_is_done_and_no_answer(self) -> None:
        """A renewal or a takeover: what the store holds is what was written, and the next update goes on from there."""
        stored = self.make_lock().create(sample_record())
        with Proxy(self.address()) as proxy, closing(self.make_lock_through(proxy.address, TIMEOUT)) as lock:
            for number, (write, how) in enumerate(product(("renew", "takeover"), LOSSES)):
                assert lock.get() == stored
                is_takeover = write == "takeover"
                holder = f"b{number}" if is_takeover else stored.record.holder_identity
                token = stored.record.fencing_token + is_takeover
                record = sample_record(holder_identity=holder, leader_transitions=number, fencing_token=token)
                self._lose_answer(proxy, how, write)
                _unanswered(partial(lock.update, record, stored))
                proxy.heal()
                stored = self.make_lock().get()
                assert stored.record == record

    def test_a_write_that_did_not_arrive_is_not_done(self) -> None:
        """Nor is it later: a call that was given up leaves nothing behind that goes on."""
        stored = self.make_lock().create(sample_record())
        with Proxy(self.address()) as proxy, closing(self.make_lock_through(proxy.address, TIMEOUT)) as lock:
            for harm in (proxy.cut_at_request, proxy.fall_silent):
                assert lock.get() == stored
                harm()
                _unanswered(partial(lock.update, sample_record(holder_identity="b"), stored))
                proxy.heal()
                assert lock.get() == self.make_lock().get() == stored

    def test_a_leader_reads_back_what_it_does_not_know(self) -> None:
        """An elector whose write was done, and whose answer was lost, finds its own record and leads."""
        clock = FakeClock()
        with Proxy(self.address()) as proxy, closing(self.make_lock_through(proxy.address, TIMEOUT)) as lock:
            elector = LeaderElector(ElectionConfig("default", "a"), lock, clock=clock)
            self._lose_answer(proxy, "drop_replies", "create")
            assert not elector.try_acquire_or_renew()
            proxy.heal()
            token = self.make_lock().get().record.fencing_token
            for how in LOSSES:
                clock.advance(2)
                assert elector.try_acquire_or_renew()
                assert elector.term == Term("default", "a", token)
                self._lose_answer(proxy, how, "renew")
                clock.advance(2)
                assert not elector.try_acquire_or_renew()
                assert elector.is_leader(), "a renewal without an answer ends no trust"
                proxy.heal()
            assert elector.try_acquire_or_renew()
            assert self.make_lock().get().record.fencing_token == token

    def test_cut_connections_cost_one_call_at_most(self) -> None:
        """Each time the connections are cut between two calls, the second call is answered, and rightly."""
        with Proxy(self.address()) as proxy, closing(self.make_lock_through(proxy.address, TIMEOUT)) as lock:
            stored = lock.create(sample_record())
            for number in range(3):
                proxy.cut()
                with suppress(StoreUnavailable):
                    assert lock.get() == stored
                stored = lock.update(sample_record(leader_transitions=number), stored)
        assert self.make_lock().get() == stored

    def test_no_call_outlasts_its_bound(self) -> None:
        """Whether nothing comes or too little at a time; with a connection and without one."""
        stored = self.make_lock().create(sample_record())
        with Proxy(self.address()) as proxy, ExitStack() as stack:
            lock, fresh, late = (
                stack.enter_context(closing(self.make_lock_through(proxy.address, TIMEOUT))) for _ in range(3)
            )
            assert lock.get() == stored
            proxy.fall_silent()
            update, create = partial(lock.update, sample_record(), stored), partial(lock.create, sample_record())
            calls: list[Callable[[], object]] = [lock.get, fresh.get, update, create]
            for call in calls:
                _unanswered(call)
            proxy.heal()
            assert lock.get() == fresh.get() == stored
            proxy.trickle(TRICKLE)
            for call in (lock.get, late.get):
                _unanswered(call)
            proxy.heal()
            assert lock.get() == late.get() == stored


class NetworkedLedgerContract(_Networked):
    """What a :class:`~celery_leader.ledger.Ledger` must do whose store is reached over TCP.

    To be inherited beside :class:`LedgerContract`, whose :meth:`~LedgerContract.make_ledger` goes there directly.
    """

    def make_ledger(self, election: str = "default") -> Ledger:
        """See :meth:`LedgerContract.make_ledger`."""
        raise NotImplementedError

    def make_ledger_through(self, address: tuple[str, int], timeout: float) -> Ledger:
        """Return a ledger that reaches the same store at *address*, and whose calls may take *timeout* seconds."""
        raise NotImplementedError

    def test_a_claim_whose_answer_is_lost_is_done_and_no_answer(self) -> None:
        """The next leader finds it: such a tick is sent, by one or the other."""
        direct = self.make_ledger()
        direct.open(1)
        with Proxy(self.address()) as proxy, closing(self.make_ledger_through(proxy.address, TIMEOUT)) as ledger:
            for second, how in enumerate(LOSSES):
                ledger.open(1)
                claim = sample_claim("a", second)
                self._lose_answer(proxy, how, "claim")
                _unanswered(partial(ledger.claim, 1, [claim]))
                proxy.heal()
                assert dict(direct.open(1)) == {"a": claim}
                assert list(ledger.claim(1, [claim])) == [False]

    def test_cut_connections_cost_one_call_at_most(self) -> None:
        """Each time the connections are cut between two calls, the second call is answered, and rightly."""
        with Proxy(self.address()) as proxy, closing(self.make_ledger_through(proxy.address, TIMEOUT)) as ledger:
            ledger.open(1)
            for second in range(3):
                proxy.cut()
                with suppress(StoreUnavailable):
                    ledger.confirm(1, [])
                assert list(ledger.claim(1, [sample_claim("a", second)])) == [True]

    def test_no_call_outlasts_its_bound(self) -> None:
        """Whether nothing comes or too little at a time, and however many claims there are."""
        direct, known = self.make_ledger(), [sample_claim(f"entry-{number}", 1) for number in range(1200)]
        direct.open(1)
        direct.claim(1, known)
        with Proxy(self.address()) as proxy:
            for harm in (proxy.fall_silent, partial(proxy.trickle, TRICKLE)):
                with (
                    closing(self.make_ledger_through(proxy.address, TIMEOUT)) as ledger,
                    closing(self.make_ledger_through(proxy.address, TIMEOUT)) as fresh,
                ):
                    ledger.confirm(1, [])
                    harm()
                    for call in (
                        partial(ledger.claim, 1, known),
                        partial(fresh.open, 1),
                        partial(ledger.confirm, 1, known),
                    ):
                        _unanswered(call)
                    proxy.heal()
                    assert list(ledger.claim(1, known[:3])) == [False] * 3


def _unanswered(call: Callable[[], object]) -> None:
    """Fail unless *call* tells, in time, that it got no answer."""
    begun = time.monotonic()
    raises(StoreUnavailable, call)
    taken = time.monotonic() - begun
    assert taken < TIMEOUT + SLACK, f"{call} took {taken:.2f} s; it may take {TIMEOUT}"
