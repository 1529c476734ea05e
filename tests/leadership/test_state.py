"""What application code asks, and what it is told where there is nothing to tell."""

from __future__ import annotations

import json
import os

import pytest

import celery_leader
from celery_leader.election import SystemClock, Term, Trust
from celery_leader.exceptions import ConfigurationError
from celery_leader.leadership import state
from celery_leader.leadership.shared_trust import SharedTrust
from celery_leader.testing import forced_leader


def test_a_process_outside_every_election_does_not_lead() -> None:
    """A web process asks and gets an answer."""
    assert celery_leader.is_leader() is False
    assert celery_leader.current_term() is None
    assert celery_leader.fencing_token() is None
    assert celery_leader.get_leader() == ""


def test_tests_of_applications_can_lead() -> None:
    """``forced_leader`` gives a term for a while."""
    with forced_leader("reports", fencing_token=42) as term:
        assert celery_leader.is_leader("reports")
        assert celery_leader.current_term("reports") == term
        assert celery_leader.fencing_token("reports") == 42
        assert celery_leader.get_leader("reports") == term.identity
    assert not celery_leader.is_leader("reports")


def test_an_election_that_nobody_configured_is_an_error() -> None:
    """A typing error must not look like "another one leads"."""
    with forced_leader("default"), pytest.raises(ConfigurationError, match="'defualt'.*only in default"):
        celery_leader.is_leader("defualt")


def test_a_guarded_task_keeps_the_term_it_was_started_in() -> None:
    """Its token must not become a later one while it runs."""
    with forced_leader(fencing_token=1) as term, state.in_term(term), forced_leader(fencing_token=2):
        assert celery_leader.fencing_token() == 1
    with forced_leader(fencing_token=2):
        assert celery_leader.fencing_token() == 2


def test_spawned_children_find_their_workers_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are named in the environment; a worker that is gone leaves nobody leading."""
    shared_trust = SharedTrust.create(in_file=True)
    monkeypatch.setattr(state, "_trusts", None)
    monkeypatch.setenv(state.TRUSTS_VARIABLE, f'{{"default": "{shared_trust.path}"}}')
    now = SystemClock().monotonic()
    shared_trust.publish(Trust(Term("default", "me", 1), renewed_at=now, until=now + 60))
    assert celery_leader.is_leader()
    shared_trust.unlink()
    monkeypatch.setattr(state, "_trusts", None)
    assert not celery_leader.is_leader()


@pytest.mark.parametrize(
    "named",
    [
        "[]",
        "7",
        "null",
        '"x"',
        '{"default": 7}',
        '{"default": null}',
        '{"default": "a\\u0000b"}',
        "{",
        "[" * 100_000,
        '{"default": "/dev/null"}',
    ],
    ids=lambda named: named[:20],
)
def test_an_environment_of_another_shape_names_no_trusts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, named: str
) -> None:
    """Nobody leads here, no question fails, and one line says why."""
    monkeypatch.setattr(state, "_trusts", None)
    monkeypatch.setenv(state.TRUSTS_VARIABLE, named)
    assert not celery_leader.is_leader()
    assert celery_leader.get_leader() == ""
    assert len(caplog.records) <= 1
    assert len(caplog.text) < 700


def test_who_takes_no_part_believes_in_nobody_s_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without a leader may have been started by one that leads, whose environment it has."""
    shared_trust = SharedTrust.create(in_file=True)
    try:
        monkeypatch.setattr(state, "_trusts", None)
        monkeypatch.setenv(state.TRUSTS_VARIABLE, f'{{"default": "{shared_trust.path}"}}')
        now = SystemClock().monotonic()
        shared_trust.publish(Trust(Term("default", "me", 1), renewed_at=now, until=now + 60))
        assert celery_leader.is_leader()
        state.take_no_part()
        assert not celery_leader.is_leader()
        assert state._known_trusts() == {}
        assert state.TRUSTS_VARIABLE not in os.environ
    finally:
        shared_trust.unlink()


def test_who_takes_part_hands_on_its_own_trusts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of a worker that started it."""
    monkeypatch.setattr(state, "_trusts", None)
    monkeypatch.setenv(state.TRUSTS_VARIABLE, '{"default": "/dev/shm/somebody-elses"}')
    shared_trusts = {"default": SharedTrust.create()}
    state.register(shared_trusts)
    assert state.TRUSTS_VARIABLE not in os.environ
    state.unregister(shared_trusts)


def leading(*, in_file: bool = False, token: int = 1) -> SharedTrust:
    """Return the shared trust of a leader."""
    shared_trust, now = SharedTrust.create(in_file=in_file), SystemClock().monotonic()
    shared_trust.publish(Trust(Term("default", "me", token), renewed_at=now, until=now + 60))
    return shared_trust


def test_a_worker_names_its_trusts_to_the_children_that_it_spawns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh interpreter finds all of them, and none of a campaign that has ended."""
    monkeypatch.setenv(state.TRUSTS_VARIABLE, "{}")
    monkeypatch.setattr(state, "_trusts", None)
    shared_trusts = {"default": leading(in_file=True), "reports": SharedTrust.create(in_file=True)}
    try:
        state.register(shared_trusts)
        with monkeypatch.context() as in_a_child:
            in_a_child.setattr(state, "_trusts", None)
            assert celery_leader.is_leader()
            assert not celery_leader.is_leader("reports")
            assert state._known_trusts().keys() == shared_trusts.keys()
        state.unregister({"default": shared_trusts["default"]})
        assert json.loads(os.environ[state.TRUSTS_VARIABLE]).keys() == {"reports"}
        state.unregister(shared_trusts)
        assert state.TRUSTS_VARIABLE not in os.environ
    finally:
        for shared_trust in shared_trusts.values():
            shared_trust.unlink()


def test_what_another_campaign_believes_is_kept() -> None:
    """A process may have two, and one that ends takes nothing of the other's with it."""
    first, second, newer = leading(token=1), leading(token=2), leading(token=3)
    with state.registered({}):
        state.register({"default": first})
        state.register({"reports": second})
        assert celery_leader.fencing_token() == 1
        assert celery_leader.fencing_token("reports") == 2
        state.register({"default": newer})
        state.unregister({"default": first})
        assert celery_leader.fencing_token() == 3
        state.unregister({"default": newer})
        assert state.accepts_work("reports")
        assert not state.accepts_work("default")
        state.unregister({"reports": second})
        assert state._known_trusts() == {}


def test_a_failing_task_leaves_no_term_behind() -> None:
    """The next task of that process is in its own."""
    term = Term("default", "me", 1)

    def fail() -> None:
        assert celery_leader.current_term() == term
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), state.in_term(term):
        fail()
    assert celery_leader.current_term() is None


def test_a_wrong_environment_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Its name and what it holds; a worker that has ended is nothing to tell of."""
    for named, lines in (("[7]", 1), ('{"default": "/dev/shm/celery-leader-of-nobody"}', 0)):
        caplog.clear()
        monkeypatch.setattr(state, "_trusts", None)
        monkeypatch.setenv(state.TRUSTS_VARIABLE, named)
        assert not celery_leader.is_leader()
        assert [record.levelname for record in caplog.records] == ["ERROR"] * lines
        assert caplog.text.count(f"{state.TRUSTS_VARIABLE} must name a worker's shared trusts, got [7]") == lines
