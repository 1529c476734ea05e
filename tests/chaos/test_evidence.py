"""The checks of the chaos tests can fail: each is shown a violation that it must report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.chaos.evidence import Evidence, GrowingLog


def trust(pid: int, token: int, at: float, until: float) -> dict[str, Any]:
    line = {"what": "trust", "election": "default", "pid": pid, "token": token, "at": at, "until": until}
    return {**line, "identity": f"w{pid}@chaos/{pid}/x"}


def tick(due: str, message: str = "", entry: str = "second", token: str = "5") -> dict[str, Any]:
    line = {"what": "tick", "pid": 1, "at": 0.0, "entry": entry, "id": message or due, "token": token}
    return {**line, "due": f"2026-11-23T09:00:{due}+00:00"}


def guarded(what: str, number: int, pid: int = 1, **details: Any) -> dict[str, Any]:
    line = {"what": f"guarded-{what}", "number": number, "pid": pid, "at": 0.0}
    return {**line, "let_in": 1.0, "token": 5, **details} if what == "start" else line


def test_a_log_that_grows_is_read_on(tmp_path: Path) -> None:
    """Also from the middle of a line that is being written."""
    path = tmp_path / "events.jsonl"
    log = GrowingLog(path)
    assert log.lines() == []
    path.write_text('{"n": 1}\n{"n": ')
    assert log.lines() == [{"n": 1}]
    path.write_text('{"n": 1}\n{"n": 2}\n')
    assert log.lines() == log.lines() == [{"n": 1}, {"n": 2}]


def test_trusts_that_overlap_are_found() -> None:
    """By however little; one that was ended in time does not overlap."""
    lines = [trust(1, 5, 0.0, 2.0), trust(1, 5, 1.0, 3.0), trust(2, 6, 2.999, 5.0)]
    assert Evidence(lines).overlaps() == ["terms 5 and 6 overlap by 0.001000 s"]
    ended = [*lines[:2], {**lines[1], "what": "trust-end", "at": 2.9}, lines[2]]
    assert Evidence(ended).overlaps() == []


def test_tokens_that_do_not_grow_are_found() -> None:
    """A later term with a lower token."""
    assert Evidence([trust(1, 6, 0.0, 1.0), trust(2, 5, 2.0, 3.0)]).overlaps() == ["token 5 follows 6"]


def test_a_tick_with_two_ids_is_found() -> None:
    """Two leaders sent it; one id that comes twice is only counted."""
    assert Evidence([tick("01", "x"), tick("01", "y")]).twice()
    again = Evidence([tick("01", "x"), tick("01", "x")])
    assert again.twice() == []
    assert again.repeated() == 1


def test_a_message_that_ran_again_is_found_unless_a_later_term_sent_it_again() -> None:
    """A successor resends the messages that its predecessor could not confirm."""
    assert Evidence([tick("01", token="5"), tick("01", token="6")]).redelivered() == []
    assert Evidence([tick("01"), tick("01")]).redelivered() == ["message 01 of term 5 ran 2 times"]


def test_a_tick_that_was_claimed_and_never_came_is_found() -> None:
    """The ledger counted three."""
    evidence = Evidence([tick("01"), tick("02")])
    assert evidence.lost({"second": 3}, {"second": 1.0}, 5) == ["second: 3 ticks were claimed, 2 executed"]
    assert evidence.lost({"second": 2}, {"second": 1.0}, 5) == []


def test_a_tick_that_was_never_claimed_is_found() -> None:
    """The ledger counted one less, or does not know the entry."""
    evidence = Evidence([tick("01"), tick("02"), tick("03", entry="other")])
    assert evidence.unclaimed({"second": 1}) == {"second": 1, "other": 1}
    assert evidence.unclaimed({"second": 2, "other": 1}) == {}


def test_a_beat_that_forgot_an_entry_is_found() -> None:
    """Nothing was due for longer than any takeover lasts."""
    evidence = Evidence([tick("01"), tick("20")])
    assert evidence.lost({"second": 2}, {"second": 1.0}, 5) == ["second: nothing was due for 19.0 s"]


def test_guarded_tasks_that_ran_wrongly_are_found() -> None:
    """Never, twice, or on a follower; one that was cut off with its process may run again."""
    assert Evidence([]).guarded_wrong(1, set()) == ["guarded task 0 never ended; it began 0 times"]
    term = trust(1, 5, 0.0, 2.0)
    twice = [term, guarded("start", 0), guarded("start", 0, 2), guarded("end", 0, 2)]
    assert Evidence(twice).guarded_wrong(1, set()) == ["guarded task 0 began 2 times"]
    assert Evidence(twice).guarded_wrong(1, {1}) == []
    late = {"let_in": 2.0}
    for details in (late, {"token": None}, {"token": 6}):
        follower = [term, guarded("start", 0, **details), guarded("end", 0)]
        assert Evidence(follower).guarded_wrong(1, set()) == ["guarded task 0 began on a follower"]
    assert Evidence([term, *twice[2:]], election="beat").guarded_wrong(1, set()) == []  # it isn't the beats' leader's


def test_a_guarded_task_may_stand_still_before_its_first_line() -> None:
    """It was let in while its worker led. Nothing could stop it since; that is what fencing tokens are for."""
    lines = [trust(1, 5, 0.0, 2.0), guarded("start", 0, at=11.0, leads=False), guarded("end", 0)]
    assert Evidence(lines).guarded_wrong(1, set()) == []
