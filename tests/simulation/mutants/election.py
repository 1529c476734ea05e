"""The faults of electors: names follow the research's list M1 to M20, and go on after it."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_leader import election
from celery_leader.election import StopReason, StoredRecord, Term, Trust, config, limits, observation, record
from celery_leader.election.elector import LeaderElector
from celery_leader.election.limits import TOO_MANY
from celery_leader.election.observation import Observation
from celery_leader.election.observers import Observers, _Queue
from celery_leader.election.term import next_token
from celery_leader.election.thread import ElectorThread
from celery_leader.exceptions import RecordDamaged, RecordNotFound, StoreUnavailable
from tests.simulation.mutants.registry import mutant

if TYPE_CHECKING:
    from celery_leader.election import ElectionRecord


@mutant()
def m01_inverted_expiry() -> None:
    """Takes over while the lease is alive, and waits when it is over."""

    def is_taken(self: LeaderElector, *, is_gone: bool = False) -> bool:
        record = self._observed.record
        if record is None or not record.holder_identity:
            return False
        return self._observed.age() >= record.lease_duration

    LeaderElector._is_taken = is_taken


@mutant()
def m02_error_is_not_found() -> None:
    """Takes any failed read for an empty store."""
    look = LeaderElector._look

    def mistaken(self: LeaderElector) -> StoredRecord:
        try:
            return look(self)
        except StoreUnavailable as error:
            raise RecordNotFound(str(error)) from error

    LeaderElector._look = mistaken


@mutant()
def m03_renewal_without_owner() -> None:
    """Renews whatever the store holds as long as it has a term."""
    attempt = LeaderElector._attempt

    def overwriting(self: LeaderElector) -> StoredRecord | None:
        if self._trust:
            stored = self.lock.get()
            return self._write(replace(self._mine(stored.record), fencing_token=self._trust.term.fencing_token), stored)
        return attempt(self)

    LeaderElector._attempt = overwriting


@mutant()
def m04_renewal_without_token() -> None:
    """Takes a record with its own name for its own term."""
    Term.holds = lambda self, record: record.holder_identity == self.identity


@mutant()
def m05_flag_only_is_leader() -> None:
    """Believes until somebody clears the flag."""
    LeaderElector.trust = property(lambda self: self._trust)


@mutant()
def m06_trust_from_the_reply() -> None:
    """Counts its trust from the end of the attempt."""
    settle = LeaderElector._settle
    LeaderElector._settle = lambda self, stored, started: settle(self, stored, self._clock.monotonic())


@mutant(killer="tests/election/test_config.py")  # worlds with `shared_identity` hold that tokens alone are enough
def m07_hostname_identity() -> None:
    """Calls all candidates of one host by its name."""
    config.new_identity = lambda nodename=None: nodename or socket.gethostname()
    election.new_identity = config.new_identity


@mutant()
def m08_release_before_drain() -> None:
    """Gives the lease back while guarded work runs."""
    init = ElectorThread.__init__

    def careless(self: ElectorThread, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "is_busy": lambda: False})

    ElectorThread.__init__ = careless


@mutant()
def m09_release_after_loss() -> None:
    """Blanks the record, whoever holds it."""

    def release(self: LeaderElector) -> bool:
        stored = self.lock.get()
        self._forget()
        self.lock.update(stored.record.released(self._clock.utcnow()), stored)
        return True

    LeaderElector.release = release


@mutant()
def m11_token_starts_anew() -> None:
    """Counts tokens from 1 when the store is empty."""
    observation.next_token = lambda previous, now: previous + 1


@mutant()
def m12_one_shot() -> None:
    """Never contends again after a loss."""
    end = LeaderElector._end

    def give_up(self: LeaderElector, reason: StopReason, *detail: str) -> None:
        had_trust = self._trust is not None
        end(self, reason, *detail)
        if had_trust:
            self._attempt = lambda: None

    LeaderElector._end = give_up


@mutant()
def m13_exponential_backoff() -> None:
    """Waits twice as long after each attempt that failed."""
    step = LeaderElector.step

    def backing_off(self: LeaderElector) -> float:
        delay = step(self)
        self._failures = 0 if self.trust else getattr(self, "_failures", 0) + 1
        return delay * 2 ** min(self._failures, 20)

    LeaderElector.step = backing_off


@mutant()
def m14_wall_clock_deadlines() -> None:
    """Judges leases and trust by a clock that is set."""
    init = LeaderElector.__init__

    class WallClock:
        def __init__(self, clock: Any) -> None:
            self.utcnow = clock.utcnow

        def monotonic(self) -> float:
            return self.utcnow().timestamp()

    def mistaken(self: LeaderElector, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._clock = self._observed._clock = WallClock(self._clock)

    LeaderElector.__init__ = mistaken


@mutant(killer="tests/election/test_observers.py")
def m17_unordered_callbacks() -> None:
    """Delivers the newest call first."""
    put = _Queue.put

    def put_first(self: _Queue, method: str, args: tuple[Any, ...]) -> None:
        put(self, method, args)
        self._calls.reverse()

    _Queue.put = put_first


@mutant(killer="tests/election/test_observers.py")
def m18_callback_ends_the_elector() -> None:
    """Calls observers on the elector's own thread, and lets their errors through."""

    def tell(self: Observers, method: str, *args: Any) -> None:
        for queue in self._queues:
            getattr(queue._observer, method)(*args)

    Observers.tell = tell


@mutant()
def m19_own_lease() -> None:
    """Judges another's lease by its own configuration."""

    def mistaken(self: Observation, *, is_gone: bool = False) -> float:
        return self._config.lease_duration - self.age() if self.holder else 0.0

    Observation.lease_left = mistaken


@mutant()
def m20_trust_without_a_write() -> None:
    """Prolongs its trust whatever the store answered."""
    attempt = LeaderElector.try_acquire_or_renew

    def optimistic(self: LeaderElector) -> bool:
        trust = self._trust
        won = attempt(self)
        if not won and trust and self._is_mine(self._observed.record):
            now = self._clock.monotonic()
            self._trust = Trust(trust.term, renewed_at=now, until=now + self.config.renew_deadline)
        return won

    LeaderElector.try_acquire_or_renew = optimistic


@mutant()
def m21_unknown_write_is_success() -> None:
    """Takes a read-back that names it for the answer to its write."""

    def read_back(
        self: LeaderElector, record: ElectionRecord, previous: StoredRecord | None, error: StoreUnavailable
    ) -> StoredRecord:
        try:
            stored = self._look()
        except (StoreUnavailable, RecordNotFound):
            raise error from None
        if not self._is_mine(stored.record):
            raise error
        return stored

    LeaderElector._read_back = read_back


@mutant()
def m22_vanished_is_vacant() -> None:
    """Creates the record at once when it is gone, though a lease was alive a moment ago."""
    LeaderElector._create_record = lambda self: self._write_new_term(0, None)


@mutant()
def m23_release_before_trust_ends() -> None:
    """Gives the lease back, and stops believing only then."""

    def release(self: LeaderElector) -> bool:
        self._end_if_expired(self._clock.monotonic())
        term = self._term
        if term is None or not self._trust:
            self._forget()
            return False
        try:
            return self._write_release(term, self._observed.stored)
        finally:
            self._forget()
            self._reports.stopped(term, StopReason.RELEASED)
            self._reports.leads(self.get_leader())

    LeaderElector.release = release


@mutant()
def m24_late_answer_is_success() -> None:
    """Begins to trust however long the answer took."""

    def settle(self: LeaderElector, stored: StoredRecord, started: float) -> bool:
        return original(self, stored, max(started, self._clock.monotonic() - self.config.renew_deadline + 0.001))

    original = LeaderElector._settle
    LeaderElector._settle = settle


@mutant(killer="tests/election/test_resign.py")
def m25_resignation_without_a_term() -> None:
    """Ends whatever term is current when it is looked at."""
    resign = ElectorThread.resign

    class Everything(set[Any]):
        def __contains__(self, term: object) -> bool:
            return True

        def clear(self) -> None:
            pass

    def resign_from_any(self: ElectorThread) -> None:
        resign(self)
        self._resigned = Everything()

    ElectorThread.resign = resign_from_any


@mutant(killer="tests/election/test_scenarios.py")  # takes a store that is rolled back to that term's record
def m26_unconfirmed_term_for_ever() -> None:
    """Takes its record for its own however long ago it wrote it, whoever led since."""

    def end_if_expired(self: LeaderElector, now: float) -> None:
        if self._trust and now >= self._trust.until:
            self._end(StopReason.EXPIRED)

    LeaderElector._end_if_expired = end_if_expired


@mutant()
def m27_absurd_lease_outlives_its_record() -> None:
    """Waits for years for the lease of a record that was deleted."""
    Observation._asks_too_much = lambda self, record: False


@mutant()
def m28_last_token_outlives_its_record() -> None:
    """Refuses to lead after a token that has no successor, though its record was deleted."""

    def following(self: Observation, now: Any, *, is_gone: bool) -> int:
        token = next_token(self.highest_token, now)
        if token >= TOO_MANY:
            raise RecordDamaged("no room for another token")
        self.highest_token = token
        return token

    Observation.next_token = following


@mutant(killer="tests/election/test_record.py")
def m29_any_value_is_believed() -> None:
    """Takes whatever a store holds for a record."""
    record._RULES.clear()


@mutant(killer="tests/election/test_limits.py")
def m30_text_is_shown_as_it_is() -> None:
    """Prints what a terminal obeys."""

    def shown(value: object) -> str:
        return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)

    limits.shown.__code__ = shown.__code__
