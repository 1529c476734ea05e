"""Every short story of two candidates (DESIGN §13)."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.simulation.exhaustive import A_LEADS, A_RESIGNED, DATA_IS_LOST, Move, explore, tell
from tests.simulation.invariants import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.once  # the protocol needs the standard library only, and batches of seeds run on all versions


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


ENDS = {"stopped: expired", "stopped: released"}
TAKEOVERS = {"takeover by expiry", "takeover by release", *ENDS}
LOSSES = {"vanished record put back", "vanished record waited out", "overlap after data loss", *ENDS}


@pytest.mark.parametrize(
    ("begin", "steps", "rates", "states", "sights"),
    [
        pytest.param((), 6, (1.0, 1.0), 900, ENDS, id="from the start"),
        pytest.param(A_LEADS, 6, (1.0, 1.0), 5000, TAKEOVERS, id="a leads"),
        pytest.param(A_LEADS, 5, (0.85, 1.2), 1500, TAKEOVERS, id="a leads and is slower"),
        pytest.param(A_RESIGNED, 5, (1.0, 1.0), 900, {"takeover by release", *ENDS}, id="a has resigned"),
        pytest.param(DATA_IS_LOST, 5, (1.0, 1.0), 1100, LOSSES, id="a leads, and the store lost its data"),
    ],
)
def test_no_short_story_breaks_a_rule(
    begin: tuple[Move, ...], steps: int, rates: tuple[float, float], states: int, sights: set[str]
) -> None:
    """Whatever the order of calls, replies, losses, crashes, releases and waits."""
    seen: Counter[str] = Counter()
    assert explore(rates, begin, steps, seen) >= states
    assert sights <= seen.keys()


def test_it_finds_the_shortest_story() -> None:
    """Clocks that differ by more than lease / deadline break the promise; the story is as short as it can be."""
    with pytest.raises(Violation, match="two trust themselves") as caught:
        explore((0.5, 1.5), A_LEADS, 8, Counter())
    assert len(str(caught.value).splitlines()) < 20


def test_a_story_can_be_told_again() -> None:
    """Moves are all there is to it."""
    story = tell((1.0, 1.0), (*A_LEADS, ("a", "step"), ("a", "lose"), ("a", "answer")))
    leader, follower = story.world.nodes
    assert leader.is_leader()
    assert not follower.is_leader()
    story.world.close()


#: A creates the record and hears nothing of it; b sees it.
UNKNOWN: tuple[Move, ...] = (
    ("a", "step"),
    ("a", "answer"),
    ("a", "lose"),
    ("a", "fail"),
    ("b", "step"),
    ("b", "answer"),
)
#: A finds its record in the store again, and fails to renew it.
STILL_UNKNOWN: tuple[Move, ...] = (("a", "step"), ("a", "answer"), ("a", "fail"), ("a", "answer"))
B_TAKES_OVER: tuple[Move, ...] = (("b", "step"), ("b", "answer"), ("b", "answer"))


@pytest.mark.parametrize(
    ("rates", "meanwhile"),
    [
        pytest.param((0.85, 1.2), [("wait", "2.6")], id="b's clock is faster"),
        pytest.param((1.0, 1.0), [("wait", "1.5"), *STILL_UNKNOWN, ("wait", "1.6")], id="a tried again"),
    ],
)
def test_a_term_that_nothing_confirmed_follows_no_later_one(rates: tuple[float, float], meanwhile: list[Move]) -> None:
    """Though the store, rolled back to its record, would let it: b has led since, with a greater token."""
    story = tell(rates, UNKNOWN)
    story.world.store.take_snapshot()
    for move in (*meanwhile, *B_TAKES_OVER, ("store", "is rolled back"), ("a", "step"), ("a", "answer")):
        story.play(move)
    a, b = story.world.nodes
    assert b.is_leader()
    assert a.elector._term is None
    story.world.close()
