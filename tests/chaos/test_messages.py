"""The comparison of messages with due ticks can fail: each check is shown a violation that it must report."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.chaos.messages import SLACK, Account, Every, Fault, LastClaim, Message, Minutely, decode

#: A minute begins here.
START = 60_000_000.0
EVERY = {"second": Every(1.0)}
MINUTE = {"minute": Minutely()}


def message(due: float, *, sent: float = 0.1, ident: str = "", entry: str = "second", token: str = "5") -> Message:
    """A tick that was due *due* seconds after START and sent *sent* seconds later."""
    return Message(entry, ident or f"{entry} {due:g}", START + due + sent, START + due, token)


def plain(sent: float, ident: str = "", entry: str = "second") -> Message:
    """A message without a due time."""
    return Message(entry, ident or f"plain {sent:g}", START + sent)


def account(
    messages: Iterable[Message], schedule: Any = EVERY, faults: Sequence[Fault] = (), until: float = 10.0
) -> Account:
    return Account(list(messages), schedule, faults, START, START + until)


def fault(begun: float, over: float, **excuses: bool) -> Fault:
    return Fault("harm", START + begun, START + over, **excuses)


GOOD = [message(due) for due in range(1, 10)]
LEDGER = {"second": LastClaim(9, True, "second 9")}


def wrong(found: Account, ledger: dict[str, LastClaim] | None = None) -> list[str]:
    """Return the violations of all checks."""
    return found.complaints(ledger or {})


def test_a_run_without_a_fault_is_accepted() -> None:
    """Every second, every minute, each once."""
    minutes = [message(due, entry="minute") for due in (60, 120, 180)]
    assert wrong(account(GOOD), LEDGER) == []
    assert wrong(account(minutes, MINUTE, until=200)) == []


def test_a_tick_with_two_ids_is_found() -> None:
    """By its due time, to the microsecond or nearly."""
    assert account([*GOOD, message(3, ident="other", sent=0.5)]).twice()
    assert account([*GOOD, message(3.9, ident="other")]).twice()


def test_a_minute_that_was_sent_twice_is_found() -> None:
    """By its due time if the messages tell it, else by when they were sent."""
    late = message(60.0, ident="late", sent=20.0, entry="minute")
    assert account([message(60.0, entry="minute"), late], MINUTE).twice()
    assert account([plain(60.1, "a", "minute"), plain(75.0, "b", "minute")], MINUTE).twice()
    assert account([plain(60.1, "a", "minute"), plain(120.1, "b", "minute")], MINUTE).twice() == []


def test_messages_that_follow_too_closely_are_found_though_they_tell_no_due_time() -> None:
    """Jitter is not too close."""
    schedule = {"second": Every(7.0)}
    assert account([plain(1), plain(7.6)], schedule).twice() == []
    assert account([plain(1), plain(4.5)], schedule).twice()


def test_a_minute_may_begin_at_any_second() -> None:
    """In a time zone that is 20 seconds off, one begins 40 seconds after ours."""
    shifted = Minutely(20.0)
    assert shifted.minute(START + 39.9) == START - 20
    assert shifted.minute(START + 40.1) == START + 40


def test_a_tick_that_was_sent_before_it_was_due_is_found() -> None:
    """Nobody may be early."""
    assert account([message(1, sent=-0.2)]).early()


def test_a_tick_of_a_term_that_is_over_is_found() -> None:
    """Unless the later term sent the same: then both had claimed it one after the other."""
    new, old = message(2, token="6"), message(1.5, token="5")
    assert account([new, old]).stale() == [f"second: {old.id} was sent by term 5 after 6 had begun"]
    assert account([message(1.5, token="6"), new, old]).stale() == []


def test_a_message_that_came_again_is_counted_and_needs_an_excuse() -> None:
    """Of another term: any fault that keeps a leader from confirming. Of the same: only one that loses answers."""
    other = [message(1), message(1, sent=4.0, token="6")]
    same = [message(1), message(1, sent=4.0)]
    assert account(other).resent() == 1
    assert account(other).twice() == []
    assert account(other).unexcused_resends()
    assert account(other, faults=[fault(1.2, 4.5)]).unexcused_resends()
    assert account(other, faults=[fault(1.2, 4.5, resends=True)]).unexcused_resends() == []
    assert account(other, faults=[fault(6, 7, resends=True)]).unexcused_resends()
    assert account(same, faults=[fault(1.2, 4.5, resends=True)]).unexcused_resends()
    assert account(same, faults=[fault(1.2, 4.5, loses_answers=True)]).unexcused_resends() == []


@pytest.mark.parametrize(
    "last",
    [LastClaim(10, True, "second 9"), LastClaim(9, False, "second 9"), LastClaim(9, True, "second 10")],
    ids=["one more was claimed", "not confirmed", "never arrived"],
)
def test_a_claim_that_did_not_arrive_is_found(last: LastClaim) -> None:
    """The ledger knows of it."""
    assert account(GOOD).lost({"second": last})


def test_a_minute_that_is_missing_is_found() -> None:
    """A fault that begins and ends between two minutes is no excuse, nor one that lasts less than a minute."""
    minutes = [message(due, entry="minute") for due in (60, 180)]
    for faults in ([], [fault(100, 110)], [fault(119, 160)]):
        assert len(account(minutes, MINUTE, faults, until=200).lost({})) == 1, faults


def test_minutes_that_nobody_could_send_become_one() -> None:
    """The last of them."""
    minutes = [message(60, entry="minute"), message(180, sent=10.0, entry="minute")]
    assert account(minutes, MINUTE, [fault(119, 189)], until=200).lost({}) == []
    assert account(minutes[:1], MINUTE, [fault(119, 189)], until=200).lost({})


def test_a_gap_that_no_fault_explains_is_found() -> None:
    """In the middle, before the first and after the last."""
    assert account([one for one in GOOD if not START + 4 <= one.sent_at < START + 8]).lost({})
    assert account(GOOD[4:]).lost({})
    assert account(GOOD[:-4]).lost({})
    assert account([]).lost({})


def test_a_gap_lasts_as_long_as_its_fault_and_no_longer() -> None:
    """And two faults that overlap are one."""
    gap = [message(1), message(2), *(message(due) for due in range(20, 30))]
    for excuse in ([fault(2.5, 18.5)], [fault(2.5, 10), fault(9, 18.5)]):
        assert account(gap, faults=excuse, until=30).lost({}) == []
    for excuse in ([fault(2.5, 19 - SLACK - 0.5)], [fault(2.5, 8), fault(12, 18.5)], [fault(12, 19)]):
        assert account(gap, faults=excuse, until=30).lost({})


def test_the_next_tick_is_counted_from_when_the_last_was_sent_again() -> None:
    """The store was away when the first leader sent it, so the second knows only that it did."""
    seven = {"second": Every(7.0)}
    sent = [message(2), message(9), message(9, sent=4.9, token="6"), message(20.9, token="6")]
    assert account(sent, seven, [fault(8, 14, resends=True)], until=25).lost({}) == []
    assert account([*sent[:2], *sent[3:]], seven, [fault(8, 14, resends=True)], until=25).lost({})


def test_an_entry_that_came_with_a_deployment_is_due_from_then_on() -> None:
    """And no more when the next one begins."""
    deployed = {"second": Every(1.0, START + 5, START + 10)}
    assert account(GOOD[4:], deployed, until=20).lost({}) == []
    assert account(GOOD[:4], deployed, until=20).lost({})


def test_a_tick_that_was_late_is_found() -> None:
    """Unless it fell due during a fault, or just before."""
    late = [*GOOD[:-1], message(9, sent=5.0)]
    assert account(late).late()
    assert account(late, faults=[fault(9.5, 13)]).late() == []


def test_what_celery_writes_is_read() -> None:
    """Entry, id, due time, term, and when it was sent."""
    headers = {"id": "x", "leader_due_at": "2026-11-23T09:00:01+00:00", "leader_token": "7", "chaos_sent_at": 3.5}
    body = base64.b64encode(json.dumps([["second"], {}, {}]).encode()).decode()
    text = json.dumps({"headers": headers, "body": body}).encode()
    del headers["leader_due_at"]
    plain_text = json.dumps({"headers": headers, "body": body}).encode()
    assert list(decode([text, plain_text])) == [
        Message("second", "x", 3.5, 1795424401.0, "7"),
        Message("second", "x", 3.5, None, "7"),
    ]
