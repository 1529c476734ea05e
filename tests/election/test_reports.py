"""What an operator reads: who leads and why, and every wrong state again and again while it lasts."""

from __future__ import annotations

import logging

import pytest

from celery_leader.election import Candidacy
from celery_leader.election.alarm import Alarm, in_words
from tests.election.stage import (
    BING,
    CONFLICT,
    DAMAGED,
    DEADLINE,
    DOWN,
    LEASE,
    ME,
    NONE,
    OK,
    RETRY,
    Stage,
    create,
    get,
    held,
    slow,
    update,
)

#: How long an election may be without a leader in the course of things.
PATIENCE = LEASE + 2.2 * RETRY


@pytest.fixture
def stage() -> Stage:
    """A candidate that has made no attempt yet."""
    return Stage()


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the texts logged at *level*, and forget them."""
    texts = [record.getMessage() for record in caplog.records if record.levelno == level]
    caplog.clear()
    return texts


def last(caplog: pytest.LogCaptureFixture, level: int) -> str:
    """Return the only text logged at *level*."""
    (text,) = lines(caplog, level)
    return text


# -- terms -------------------------------------------------------------------------------------------------------


def test_a_hand_over_is_no_warning(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The lease was given back: that is how leaders change."""
    with caplog.at_level(logging.INFO):
        assert stage.attempt(get(held(by="")), update(OK))
    assert not lines(caplog, logging.WARNING)


def test_a_takeover_names_who_was_deposed_and_why(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """At Celery's default log level: the leader was killed, and an operator should know."""
    assert not stage.attempt(get(held()))
    assert stage.attempt(get(held()), update(OK), wait=LEASE + 1)
    assert f"{ME} started leading: it took over from {BING}, which has not renewed for 11 s" in last(
        caplog, logging.WARNING
    )


def test_a_lost_record_is_named_as_the_cause(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The store came back empty, which no hand-over does."""
    assert not stage.attempt(get(held()))
    assert stage.attempt(get(NONE), create(OK), wait=LEASE + 1)
    assert "the record that it had seen is gone from the store" in last(caplog, logging.WARNING)


def test_the_cause_of_one_term_is_not_told_of_the_next(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The second term began by a hand-over."""
    assert not stage.attempt(get(held()))
    assert stage.attempt(get(held()), update(OK), wait=LEASE + 1)
    assert stage.release(update(OK))
    caplog.clear()
    assert stage.attempt(get(held(by="", token=stage.written.fencing_token)), update(OK))
    assert not lines(caplog, logging.WARNING)


def test_an_outage_is_the_reason_of_a_term_that_ran_out(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Each renewal failed: the line says with what."""
    stage.attempt(get(NONE), create(OK))
    stage.attempt(update(DOWN), get(DOWN), wait=RETRY)
    caplog.clear()
    stage.attempt(get(DOWN), wait=DEADLINE)
    text = next(text for text in lines(caplog, logging.WARNING) if "stopped leading" in text)
    assert "its trust ran out 2.0 s ago, because no renewal succeeded (StoreUnavailable: timeout)" in text


def test_a_pause_is_the_reason_of_a_term_that_ran_out(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """No renewal failed, so it was the process that stood still."""
    stage.attempt(get(NONE), create(OK))
    stage.attempt(get(held()), wait=DEADLINE + 20)
    assert "stopped leading (expired): its trust ran out 20 s ago, because this process stood still" in last(
        caplog, logging.WARNING
    )


def test_an_answer_that_comes_too_late_is_a_reason(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The renewal happened, and nobody may believe it any more."""
    stage.attempt(get(NONE), create(OK))
    stage.attempt(update(slow(DEADLINE + 1)), wait=RETRY)
    assert "the store answered too late" in last(caplog, logging.WARNING)


def test_a_term_that_was_taken_names_who_has_it(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The record tells."""
    stage.attempt(get(NONE), create(OK))
    stage.attempt(update(CONFLICT), get(held(token=7)), wait=RETRY)
    assert f"stopped leading (lost): the record names {BING} (token 7)" in last(caplog, logging.WARNING)


def test_a_follower_says_who_leads(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each change, and of others only: its own terms have lines of their own."""
    with caplog.at_level(logging.INFO):
        stage.attempt(get(held()))
        stage.attempt(get(held()), wait=1)
        assert last(caplog, logging.INFO) == f"Election 'default': the leader is now {BING}"
        stage.attempt(get(held(by="", version=101)), update(OK))
        assert last(caplog, logging.INFO).endswith(f"{ME} started leading")
        stage.release(update(OK))
        assert lines(caplog, logging.INFO)[-1] == "Election 'default': the leader is now nobody"


def test_a_failed_renewal_says_how_much_trust_is_left(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Each time: the operator sees it run out."""
    stage.attempt(get(NONE), create(OK))
    stage.attempt(update(DOWN), get(DOWN), wait=RETRY)
    token = stage.written.fencing_token
    assert f"renewal of token {token} failed, 4.0 s of trust are left" in last(caplog, logging.WARNING)
    stage.attempt(update(DOWN), get(DOWN), wait=RETRY)
    assert "2.0 s of trust are left" in last(caplog, logging.WARNING)


# -- a store that is away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failure", "cure"), [(DOWN, "Start the store, or correct leader_backend."), (DAMAGED, "")])
def test_a_silent_store_is_said_once_a_minute(
    stage: Stage, caplog: pytest.LogCaptureFixture, failure: Exception, cure: str
) -> None:
    """With how long, why, what it means and the cure; and nothing between."""
    stage.attempt(get(failure))
    caplog.clear()
    stage.attempt(get(failure), wait=PATIENCE + 0.1)
    text = last(caplog, logging.ERROR)
    assert "has not been able to take part for 14 s" in text
    assert str(failure) in text
    assert f"periodic tasks are NOT sent and guarded tasks wait. {cure}".strip() in text
    for _ in range(5):
        stage.attempt(get(failure), wait=10)
        assert not caplog.records
    stage.attempt(get(failure), wait=10)
    assert "for 74 s" in last(caplog, logging.ERROR)


def test_its_return_is_said(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """With how long it was away."""
    stage.attempt(get(DOWN))
    assert stage.elector.trouble == "StoreUnavailable: timeout"
    stage.attempt(get(DOWN), wait=150)
    caplog.clear()
    stage.attempt(get(held()))
    assert "script answers again after 2 min" in last(caplog, logging.WARNING)
    assert stage.elector.trouble == ""
    stage.attempt(get(held()), wait=1)
    assert not caplog.records


def test_a_short_outage_is_no_error(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, and no word of its end: nothing was missed."""
    stage.attempt(get(DOWN))
    stage.attempt(get(DOWN), wait=PATIENCE - 1)
    stage.attempt(get(held()))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_the_next_outage_is_counted_from_its_own_begin(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """What was before is over."""
    stage.attempt(get(DOWN))
    stage.attempt(get(DOWN), wait=100)
    stage.attempt(get(held()))
    caplog.clear()
    stage.attempt(get(DOWN), wait=100)
    assert not lines(caplog, logging.ERROR)


# -- nobody leads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidacy", "why"), [(Candidacy.OBSERVE, "leader_eligible is False"), (Candidacy.HOLD, "it is stopping")]
)
@pytest.mark.parametrize("answer", [NONE, held(by=""), held()], ids=["no record", "vacant", "expired"])
def test_nobody_leads_is_said_once_a_minute(
    stage: Stage, caplog: pytest.LogCaptureFixture, candidacy: Candidacy, why: str, answer: object
) -> None:
    """By each candidate that may not take the lease, with why."""
    stage.elector.candidacy = candidacy
    stage.attempt(get(answer))
    stage.attempt(get(answer), wait=LEASE)
    assert not lines(caplog, logging.ERROR)
    stage.attempt(get(answer), wait=PATIENCE)
    text = last(caplog, logging.ERROR)
    assert "nobody has led for" in text
    assert why in text
    stage.attempt(get(answer), wait=59)
    assert not lines(caplog, logging.ERROR)
    stage.attempt(get(answer), wait=1)
    assert lines(caplog, logging.ERROR)


def test_a_leader_in_the_end_is_said(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """With how long nobody led."""
    stage.elector.candidacy = Candidacy.OBSERVE
    stage.attempt(get(NONE))
    stage.attempt(get(NONE), wait=60)
    caplog.clear()
    stage.attempt(get(held()), wait=30)
    assert f"{BING} leads after nobody had led for 90 s" in last(caplog, logging.WARNING)


def test_a_takeover_in_time_is_no_error(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Between a kill and the end of the lease somebody still holds it, as far as anybody can tell."""
    stage.attempt(get(held()))
    for _ in range(4):
        stage.attempt(get(held()), wait=LEASE / 5)
    stage.attempt(get(held()), update(CONFLICT), wait=LEASE / 5)
    stage.attempt(get(held(by="other/3/c", token=6)), wait=1)
    assert not lines(caplog, logging.ERROR)


# -- two deployments under one key ---------------------------------------------------------------------------------


def test_the_leader_of_another_deployment_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """By candidates that wait for it: their schedule is not sent."""
    stage = Stage(deployment="proj on redis://two/0")
    theirs = held(deployment="proj on redis://one/0")
    for wait in (0, 30, 29):
        stage.attempt(get(theirs), wait=wait and 1)
    text = last(caplog, logging.ERROR)
    assert f"held by {BING}, which belongs to another deployment: proj on redis://one/0. This one is" in text
    assert "leader_key_prefix" in text
    stage.clock.advance(60)
    stage.attempt(get(held(deployment="proj on redis://one/0", version=101)))
    assert "another deployment" in last(caplog, logging.ERROR)
    stage.attempt(get(held(deployment="proj on redis://two/0", version=102)))
    stage.attempt(get(held(deployment="proj on redis://one/0", version=103)))
    assert "another deployment" in last(caplog, logging.ERROR)  # it begins anew, not a minute later


@pytest.mark.parametrize("theirs", ["proj on redis://one/0", ""])
def test_one_deployment_is_no_error(caplog: pytest.LogCaptureFixture, theirs: str) -> None:
    """Nor a record that an earlier version wrote, which names none."""
    stage = Stage(deployment="proj on redis://one/0")
    stage.attempt(get(held(deployment=theirs)))
    assert not lines(caplog, logging.ERROR)


def test_a_vacant_record_belongs_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever led last, this deployment leads now, and says which it is."""
    stage = Stage(deployment="proj on redis://two/0")
    assert stage.attempt(get(held(by="", deployment="proj on redis://one/0")), update(OK))
    assert not lines(caplog, logging.ERROR)
    assert stage.written.deployment == "proj on redis://two/0"


# -- the alarm ---------------------------------------------------------------------------------------------------


def test_an_alarm_repeats_each_minute_while_the_state_lasts() -> None:
    """However often it is looked at."""
    alarm = Alarm(after=5)
    due = [now for now in range(100, 260) if alarm.due(now) is not None]
    assert due == [105, 165, 225]
    assert alarm.lasted(260) == 160
    assert alarm.over(260) == 160
    assert (alarm.is_on, alarm.lasted(261), alarm.over(261)) == (False, 0.0, None)


def test_a_state_that_was_never_worth_a_line_ends_without_one() -> None:
    """Its end would be news of nothing."""
    alarm = Alarm(after=5)
    assert alarm.due(100) is None
    assert alarm.over(104) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (1.54, "1.5 s"), (13.4, "13 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_durations_read_well(seconds: float, words: str) -> None:
    """In the largest unit that they hold twice."""
    assert in_words(seconds) == words
