"""Beats of their own, beats in some workers, and workers without: who sends, who answers, how fast they hand over."""

from __future__ import annotations

import signal
import subprocess
import sys

import celery
import pytest

from tests.chaos.fleet import LEASE, LONGEST_TAKEOVER, PERIODS, Fleet
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.fixture
def beats(fleet: Fleet) -> Fleet:
    """A fleet whose beats hold an election of their own; workers have none unless they are told to."""
    fleet.election = "beat"
    fleet.conf["leader_beat"] = False
    return fleet


def test_a_mixed_fleet_has_one_beat(beats: Fleet) -> None:
    """A worker with a beat, a standalone beat and a plain worker: the plain worker never leads the beats."""
    beats.start("plain", "-P", "threads", "-c", "2")
    beats.start("worker", "-P", "threads", "-c", "2", "--leader-beat")
    beats.await_ticking_leader()
    beats.start_beat("alone")
    takeovers = []
    for expected, number in (("worker", signal.SIGTERM), ("alone", signal.SIGKILL), ("worker", signal.SIGTERM)):
        assert beats.await_ticking_leader() == expected
        beats.send_guarded(2)
        terms = len(beats.evidence().terms())
        begun = beats.signal(expected, number)
        beats.await_end(expected)
        if expected == "worker" and len(takeovers) == 2:
            break  # the last beat of all
        takeovers.append(_next_term(beats, terms, expected) - begun)
    eventually(
        lambda: not beats.evidence().guarded_wrong(beats.sent, set()), timeout=20
    )  # the plain worker leads those
    claimed = beats.claimed()
    eventually(lambda: not beats.evidence().lost(claimed, PERIODS, LONGEST_TAKEOVER), timeout=20)
    beats.report(takeovers)
    assert beats.evidence().overlaps() == []
    assert beats.evidence().twice() == []
    assert beats.alive() == ["plain"]


def test_a_standby_answers_pings(beats: Fleet) -> None:
    """As a leader does: it ticks, though it does nothing in a tick. Celery before 5.7 asks no beat."""
    if celery.VERSION < (5, 7):
        asked = subprocess.run(
            [sys.executable, "-m", "celery", "beat", "--help"], capture_output=True, text=True, check=True
        )
        assert "--scheduler" in asked.stdout
        assert "remote-control" not in asked.stdout
        return
    beats.conf["beat_remote_control_max_tick_age"] = 3
    names = {"one@chaos", "two@chaos"}
    for name in names:
        beats.start_beat(name, "--enable-remote-control", "-n", name)
    leader = beats.await_leader()
    (standby,) = names - {leader}
    ask = beats.app.control.inspect(destination=[*names], timeout=1)
    eventually(lambda: (ask.ping() or {}).keys() == names, timeout=30, what="an answer of both")
    beats.signal(leader, signal.SIGKILL)
    beats.await_end(leader)
    beats.await_leader(other_than=leader)  # a lease later: a beat that had not ticked since would be silent now
    assert ask.ping() == {standby: {"ok": "pong"}}


def test_a_beat_that_is_asked_to_end_hands_over_at_once(beats: Fleet) -> None:
    """By whichever signal, SIGHUP too, which ends a process without a word unless it says otherwise."""
    beats.start("worker", "-P", "threads", "-c", "2")
    for name in ("one", "two"):
        beats.start_beat(name)
    takeovers = []
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        leader = beats.await_ticking_leader()
        terms = len(beats.evidence().terms())
        begun = beats.signal(leader, number)
        takeovers.append(beats.await_term(terms) - begun)
        assert beats.await_end(leader) == 0
        beats.start_beat(leader)
    beats.report(takeovers)
    assert beats.evidence().twice() == []
    assert beats.evidence().repeated() == 0
    assert max(takeovers) < LEASE - 1  # given back: nobody had to wait for it to run out
    assert beats.times_logged("Traceback", "one", "two") == 0


def _next_term(fleet: Fleet, terms: int, gone: str) -> float:
    """Wait for the next term; bring *gone* back, as a standby."""
    begun = fleet.await_term(terms)
    if gone == "worker":
        fleet.start("worker", "-P", "threads", "-c", "2", "--leader-beat")
        fleet.await_ready("worker")
    return begun
