# ruff: noqa: E501  # a case is a line
"""What a candidate does in each situation, a line a case.

A case says: its name, which begins with its id in ``SCENARIOS.md``; the attempts, each with what the store answers to
each call in order; whether the candidate leads in the end; whom it believes to hold the lease; how often the record
changed hands; all that its observer was told. A call that is not in the line fails the case, and so does one that is
not made.

    wins(get(NONE), create(OK))     The attempt reads, finds no record, creates it, and succeeds.
    fails(get(held()), after=2)     Two seconds later it finds another's lease, writes nothing, and does not succeed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.testing import FakeClock
from tests.election.stage import (
    AS_BEFORE,
    BEGUN,
    BING,
    CONFLICT,
    DAMAGED,
    DOWN,
    GONE,
    KEPT,
    LATE,
    LOST,
    ME,
    NONE,
    OK,
    Stage,
    create,
    get,
    held,
    slow,
    update,
)


class Attempt(NamedTuple):
    """One attempt, *after* seconds."""

    after: float
    store: tuple[tuple[str, Any], ...]
    wins: bool


class Case(NamedTuple):
    """A situation, and what comes of it."""

    name: str
    attempts: list[Attempt]
    leads: bool
    holder: str  #: whom the candidate believes to hold the lease in the end
    transitions: int | None  #: of the record as the candidate knows it
    told: list[str]  #: all that its observer heard


def wins(*store: tuple[str, Any], after: float = 0) -> Attempt:
    return Attempt(after, store, wins=True)


def fails(*store: tuple[str, Any], after: float = 0) -> Attempt:
    return Attempt(after, store, wins=False)


EMPTY = StoredRecord(ElectionRecord(lease_duration=0), 100)
BLANK = StoredRecord(ElectionRecord(leader_transitions=1), 100)
RELEASED = StoredRecord(replace(BLANK.record, lease_duration=1.0, fencing_token=9), 100)
AHEAD_AND_RELEASED = StoredRecord(replace(RELEASED.record, renew_time=FakeClock().utcnow() + timedelta(days=42)), 100)
LEAD = wins(get(NONE), create(OK))
LEADS, FOLLOWS = True, False
NOBODY = ""
NOTHING: list[str] = []
SAW_BING = ["leader: bing"]
TOOK_OVER = [*SAW_BING, *BEGUN]

# fmt: off
CASES = [
    # client-go, try_acquire_or_renew
    Case("K1 no record: create it", [LEAD], LEADS, ME, 0, BEGUN),
    Case("K2 record without election data", [wins(get(BLANK), update(OK))], LEADS, ME, 2, BEGUN),
    Case("K3 lease of 3 s in the record, of 10 s in the config", [fails(get(held(lease=3))), wins(get(held(lease=3)), update(OK), after=3)], LEADS, ME, 2, TOOK_OVER),
    Case("K3b lease of 30 s in the record, of 10 s in the config", [fails(get(held(lease=30))), fails(get(held(lease=30)), after=29)], FOLLOWS, BING, 1, SAW_BING),
    Case("K4 nobody's, all fields empty", [wins(get(EMPTY), update(OK))], LEADS, ME, 1, BEGUN),
    Case("K4b released: take it at once", [wins(get(RELEASED), update(OK))], LEADS, ME, 2, BEGUN),
    Case("K5 unchanged for a lease: take it", [fails(get(held())), wins(get(held()), update(OK), after=10)], LEADS, ME, 2, TOOK_OVER),
    Case("K5b unchanged for almost a lease: leave it", [fails(get(held())), fails(get(held()), after=9.99)], FOLLOWS, BING, 1, SAW_BING),
    Case("K5c renewed meanwhile, with equal values: leave it", [fails(get(held())), fails(get(held(version=101)), after=9), fails(get(held(version=101)), after=9)], FOLLOWS, BING, 1, SAW_BING),
    Case("K6 released, seen a moment ago: take it", [fails(get(held())), wins(get(RELEASED), update(OK), after=0.1)], LEADS, ME, 2, TOOK_OVER),
    Case("K6b released, renewed in the future by its wall clock: take it", [wins(get(AHEAD_AND_RELEASED), update(OK))], LEADS, ME, 2, BEGUN),
    Case("K7 held by another: leave it", [fails(get(held()))], FOLLOWS, BING, 1, SAW_BING),
    Case("K8 renew mine", [LEAD, wins(update(OK), after=2)], LEADS, ME, 0, BEGUN),
    Case("K9 somebody else is faster to create", [fails(get(NONE), create(CONFLICT)), fails(get(held()), after=2)], FOLLOWS, BING, 1, SAW_BING),
    Case("K10 somebody else is faster to take over", [fails(get(RELEASED), update(CONFLICT)), fails(get(held()), after=2)], FOLLOWS, BING, 1, SAW_BING),

    # client-go, renewals without reading
    Case("FP1 renewals read nothing", [LEAD, wins(update(OK), after=2), wins(update(OK), after=2)], LEADS, ME, 0, BEGUN),
    Case("FP2 a conflict with my own write: look, renew", [LEAD, wins(update(CONFLICT), get(KEPT), update(OK), after=2), wins(update(OK), after=2)], LEADS, ME, 0, BEGUN),

    # the Python client of Kubernetes
    Case("PY1 renewed twice, then refused: the store heard create, update, update", [LEAD, wins(update(OK), after=2), wins(update(OK), after=2), fails(update(CONFLICT), get(held()), after=2)], FOLLOWS, BING, 1, GONE),

    # River, from a follower's and a leader's store calls
    Case("RV6 my name, another term: lost", [LEAD, fails(update(CONFLICT), get(held(ME, token=2**50)), after=2)], FOLLOWS, ME, 1, [*BEGUN, "stopped: lost"]),
    Case("RV7 renewals fail until the trust is over", [LEAD, *[fails(update(DOWN), get(DOWN), after=2)] * 2, fails(get(DOWN), after=2)], FOLLOWS, ME, 0, LATE),
    Case("RV7b one renewal of two fails: leads on", [LEAD, fails(update(DOWN), get(DOWN), after=2), wins(update(OK), after=2)], LEADS, ME, 0, BEGUN),
    Case("RV8 renewed, but the answer comes after the trust it gives", [LEAD, fails(update(slow(6)), after=2)], FOLLOWS, ME, 0, LATE),
    Case("RV9 trust over at entry: no renewal, my own record waits out its lease", [LEAD, fails(get(KEPT), after=6), fails(get(KEPT), after=3.9), wins(get(KEPT), update(OK), after=0.1)], LEADS, ME, 1, [*LATE, "started"]),

    # our own: no answers, lost replies, odd clocks, records that vanish
    Case("N1 no answer is not 'not found'", [fails(get(DOWN))], FOLLOWS, NOBODY, None, NOTHING),
    Case("N1b a damaged record is left as it is", [fails(get(DAMAGED))], FOLLOWS, NOBODY, None, NOTHING),
    Case("N1c no answer: what was seen goes on ageing", [fails(get(held())), fails(get(DOWN), after=8), wins(get(held()), update(OK), after=2)], LEADS, ME, 2, TOOK_OVER),
    Case("N2 created, reply lost: read back", [wins(get(NONE), create(LOST), get(KEPT))], LEADS, ME, 0, BEGUN),
    Case("N2b renewed, reply lost: read back", [LEAD, wins(update(LOST), get(KEPT), after=2)], LEADS, ME, 0, BEGUN),
    Case("N2c renewal not stored: read back, no success", [LEAD, fails(update(DOWN), get(KEPT), after=2), fails(get(KEPT), after=5)], FOLLOWS, ME, 0, LATE),
    Case("N2d created, reply lost, no read-back: known at the next attempt", [fails(get(NONE), create(LOST), get(DOWN)), wins(get(KEPT), update(OK), after=2)], LEADS, ME, 0, BEGUN),
    Case("N2e takeover without an answer, another won", [fails(get(RELEASED), update(DOWN), get(held()))], FOLLOWS, BING, 1, SAW_BING),
    Case("N2f takeover without an answer, nothing stored", [fails(get(RELEASED), update(DOWN), get(RELEASED)), wins(get(RELEASED), update(OK), after=2)], LEADS, ME, 2, BEGUN),
    Case("N2g renewal without an answer, another took over: lost", [LEAD, fails(update(DOWN), get(held()), after=2)], FOLLOWS, BING, 1, GONE),
    Case("N2h an earlier renewal without an answer is no success of this one", [LEAD, fails(update(LOST), get(DOWN), after=2), fails(update(LOST), get(AS_BEFORE), after=2), fails(get(AS_BEFORE), after=2)], FOLLOWS, ME, 0, LATE),
    Case("N2i created, nothing known until trust in it would be over: the record is anybody's, with a new term", [fails(get(NONE), create(LOST), get(DOWN)), fails(get(KEPT), after=6), wins(get(KEPT), update(OK), after=10)], LEADS, ME, 1, ["leader: me", "started"]),
    Case("N2j the same when a later renewal had no answer: others measure from what was stored", [fails(get(NONE), create(LOST), get(DOWN)), fails(get(KEPT), update(DOWN), get(KEPT), after=5.9), fails(get(KEPT), after=0.1), wins(get(KEPT), update(OK), after=9.9)], LEADS, ME, 1, ["leader: me", "started"]),
    Case("N3 first success comes too late to count", [fails(get(NONE), create(slow(6)))], FOLLOWS, ME, 0, ["leader: me"]),
    Case("N4 my name and another token, then its lease is over: a new term", [LEAD, fails(update(CONFLICT), get(held(ME, token=2**50)), after=2), wins(get(held(ME, token=2**50)), update(OK), after=10)], LEADS, ME, 2, [*BEGUN, "stopped: lost", "started"]),
    Case("N4b a record in my name that I never wrote: a stranger's", [fails(get(held(ME)))], FOLLOWS, ME, 1, ["leader: me"]),
    Case("N6 vanished while I lead: put back, same term", [LEAD, wins(update(CONFLICT), get(NONE), create(OK), after=2)], LEADS, ME, 0, BEGUN),
    Case("N6b vanished, and I know of a live lease: wait it out", [fails(get(held())), fails(get(NONE), after=2), fails(get(NONE), after=7.9), wins(get(NONE), create(OK), after=0.1)], LEADS, ME, 2, TOOK_OVER),
    Case("N6c vanished after my trust: my own lease is waited out too", [LEAD, fails(get(NONE), after=6), wins(get(NONE), create(OK), after=4)], LEADS, ME, 1, [*LATE, "started"]),
    Case("N6d vanished while I lead, another was faster", [LEAD, fails(update(CONFLICT), get(NONE), create(CONFLICT), after=2), fails(update(CONFLICT), get(held()), after=2)], FOLLOWS, BING, 1, GONE),
    Case("N6e vanished after a release: vacant", [fails(get(RELEASED), update(CONFLICT)), wins(get(NONE), create(OK), after=2)], LEADS, ME, 2, BEGUN),
    Case("N7 renewed an hour ago by its wall clock: no reason to take it", [fails(get(held(clock=-3600)))], FOLLOWS, BING, 1, SAW_BING),
    Case("N7b renewed in an hour by its wall clock, unchanged for a lease: take it", [fails(get(held(clock=3600))), wins(get(held(clock=3600)), update(OK), after=10)], LEADS, ME, 2, TOOK_OVER),
    Case("N8 paused for three leases: out of office before the first look", [LEAD, fails(get(held()), after=30)], FOLLOWS, BING, 1, [*LATE, "leader: bing"]),
    Case("N13 an old backup: what it names is another's live lease", [LEAD, fails(update(CONFLICT), get(held(token=1)), after=2), wins(get(held(token=1)), update(OK), after=10)], LEADS, ME, 2, [*GONE, "started", "leader: me"]),
    Case("N14 a hint before the release can be seen: one look in vain", [fails(get(held())), fails(get(held()), after=0.05), wins(get(RELEASED), update(OK), after=2)], LEADS, ME, 2, TOOK_OVER),
]
# fmt: on


def play(case: Case) -> None:
    """Play *case*; raise AssertionError where it goes otherwise."""
    stage = Stage()
    for number, attempt in enumerate(case.attempts, 1):
        won = stage.attempt(*attempt.store, wait=attempt.after)
        assert won == attempt.wins, f"attempt {number} {'succeeded' if won else 'failed'}"
    elector, record = stage.elector, stage.elector._observed.record
    assert elector.is_leader() == case.leads
    assert elector.get_leader() == case.holder
    assert (record.leader_transitions if record else None) == case.transitions
    assert stage.told() == case.told
    tokens = [term.fencing_token for term in stage.heard.terms]
    assert tokens == sorted(set(tokens)), "tokens grow with every term"
