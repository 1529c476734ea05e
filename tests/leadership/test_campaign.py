"""A process's candidacies, all at once: how many there are makes none of them slower."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery

from celery_leader import signals
from celery_leader.election import Candidacy, StopReason, Term
from celery_leader.leadership import state
from celery_leader.leadership.campaign import Campaign, backend_of
from celery_leader.settings import LeaderSettings
from tests.waiting import eventually

ELECTIONS = ["one", "two", "three", "four"]
#: Long enough that no poll and no expiry does what should happen at once.
SLOW = {"leader_lease_duration": 60.0, "leader_renew_deadline": 40.0, "leader_retry_period": 10.0}
FAST = {"leader_lease_duration": 0.9, "leader_renew_deadline": 0.6, "leader_retry_period": 0.1}


@pytest.fixture
def make_campaign(request: pytest.FixtureRequest) -> Iterator[Callable[..., Campaign]]:
    """A maker of campaigns on one store, which are stopped in the end."""
    made: list[Campaign] = []

    def make(elections: list[str] = ["default"], conf: dict[str, Any] = {}, **options: Any) -> Campaign:  # noqa: B006
        app = Celery("proj", set_as_current=False)
        app.conf.update(leader_backend=f"memory://{request.node.nodeid}", leader_elections=elections, **conf)
        settings = LeaderSettings.from_app(app)
        made.append(Campaign(settings, elections, backend=backend_of(settings, "proj"), nodename="w@h", **options))
        return made[-1]

    yield make
    for campaign in made:
        campaign.stop()


def leading(campaign: Campaign) -> Campaign:
    """Start *campaign*, and return it when it leads all its elections."""
    campaign.start()
    eventually(lambda: all(candidate.leading.is_set() for candidate in campaign.candidates.values()))
    return campaign


@pytest.fixture
def campaign(make_campaign: Callable[..., Campaign]) -> Campaign:
    """A process that leads four elections."""
    return leading(make_campaign(ELECTIONS))


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What slow code waits for."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def slow_receiver(gate: threading.Event) -> Iterator[Callable[..., None]]:
    """An application's receiver that does not come back."""

    def receive(**kwargs: object) -> None:
        gate.wait(60)

    signals.leader_stopped.connect(receive)
    yield receive
    signals.leader_stopped.disconnect(receive)


def released(campaign: Campaign, elections: Iterable[str] = ELECTIONS) -> list[str]:
    """Those of *elections* whose lease was given back."""
    return [name for name in elections if not campaign.backend.lock(name).get().record.holder_identity]


def test_one_of_two_events_says_whether_a_candidate_leads(make_campaign: Callable[..., Campaign]) -> None:
    """From before the first attempt on; listeners hear of each change, and one that fails keeps none from hearing."""
    candidate = make_campaign().candidates["default"]
    heard: list[bool] = []

    def fail(leads: bool) -> None:
        raise RuntimeError("x")

    candidate.listen(fail)
    candidate.listen(heard.append)

    def events() -> tuple[bool, bool]:
        return candidate.leading.is_set(), candidate.not_leading.is_set()

    assert events() == (False, True)
    for _ in range(2):  # the second renews
        assert candidate.elector.try_acquire_or_renew()
        assert events() == (True, False)
        assert heard == [True]
    candidate.elector.release()
    assert events() == (False, True)
    assert heard == [True, False]


@pytest.mark.usefixtures("slow_receiver")
def test_slow_receivers_hold_up_no_lease_and_the_end_only_once(campaign: Campaign) -> None:
    """Each election has one that hangs; the leases are free at once, and the process ends a second later, not four."""
    begun = time.monotonic()
    stopping = threading.Thread(target=campaign.stop)
    stopping.start()
    eventually(lambda: released(campaign) == ELECTIONS, 0.9)
    stopping.join(10)
    assert time.monotonic() - begun < 2.5


def test_a_campaign_that_drains_gives_back_what_nothing_needs(campaign: Campaign) -> None:
    """Each lease by itself, at once or when its work has ended; the threads live on and acquire nothing."""
    busy = {"two"}
    campaign.is_busy = busy.__contains__
    campaign.drain()
    eventually(lambda: released(campaign) == ["one", "three", "four"])
    assert campaign.candidates["two"].shared_trust.is_leader()
    assert not campaign.candidates["two"].shared_trust.accepts_work()
    busy.clear()
    campaign.wake()
    eventually(lambda: released(campaign) == ELECTIONS)
    assert all(candidate.thread.is_alive for candidate in campaign.candidates.values())


@pytest.mark.parametrize(("timeout", "seconds"), [(1.0, 1.0), (None, 1.6)], ids=["given", "two calls and a second"])
def test_leases_that_can_not_be_given_back_are_waited_for_once(
    make_campaign: Callable[..., Campaign],
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
    timeout: float | None,
    seconds: float,
) -> None:
    """Whatever hangs in each election, the process ends after that time, and a line names each lease."""
    campaign = leading(make_campaign(ELECTIONS, FAST))
    for candidate in campaign.candidates.values():
        candidate.listen(lambda leads: None if leads else gate.wait(60))
    begun = time.monotonic()
    campaign.stop(timeout)
    assert seconds <= time.monotonic() - begun < seconds + 1.5
    assert [f"Election {name!r}: the lease was not released within {seconds} s" in caplog.text
            for name in ELECTIONS] == [True] * 4  # fmt: skip
    gate.set()
    eventually(lambda: released(campaign) == ELECTIONS)


def test_celery_s_signals_tell_of_each_term_and_each_leader(make_campaign: Callable[..., Campaign]) -> None:
    """In order: the term with its token, the new leader, the end and its reason, and that nobody leads.

    A process that stops waits for a receiver that is slow.
    """
    heard: list[tuple[object, ...]] = []

    def started(sender: str, term: Term, **_: object) -> None:
        heard.append(("started", sender, term))

    def stopped(sender: str, term: Term, reason: StopReason, **_: object) -> None:
        time.sleep(0.3)
        heard.append(("stopped", sender, term, reason))

    def changed(sender: str, identity: str, **_: object) -> None:
        heard.append(("changed", sender, identity))

    with ExitStack() as connected:
        for signal, receiver in (
            (signals.leader_started, started),
            (signals.leader_stopped, stopped),
            (signals.leader_changed, changed),
        ):
            signal.connect(receiver)
            connected.callback(signal.disconnect, receiver)
        campaign = leading(make_campaign(["reports"]))
        term = campaign.candidates["reports"].term
        campaign.stop()
    assert term == Term("reports", campaign.identity, term.fencing_token if term else 0)
    assert heard == [
        ("started", "reports", term),
        ("changed", "reports", campaign.identity),
        ("stopped", "reports", term, StopReason.RELEASED),
        ("changed", "reports", ""),
    ]


def test_pool_children_read_the_observed_leader(make_campaign: Callable[..., Campaign]) -> None:
    """The worker's own identity while it leads, and nobody's afterwards; a follower's page names the other."""
    leader, follower = leading(make_campaign()), make_campaign()
    follower.start()
    pages = [campaign.candidates["default"].shared_trust for campaign in (leader, follower)]
    eventually(lambda: [page.leader() for page in pages] == [leader.identity] * 2)
    assert leader.identity != follower.identity
    leader.stop()
    eventually(lambda: pages[0].leader() == "")


def test_a_closing_process_has_its_lease_and_begins_no_work(campaign: Campaign) -> None:
    """There is no term for new work, though the lease is held while old work ends."""
    candidate = campaign.candidates["one"]
    assert candidate.term == candidate.elector.term
    campaign.close_to_new_work()
    assert [each.term for each in campaign.candidates.values()] == [None] * 4
    assert candidate.elector.term
    assert candidate.shared_trust.is_leader()


def test_a_closing_process_checks_its_candidacy_at_once(
    make_campaign: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands over before its next look, which would come in half a minute here."""
    monkeypatch.setattr("celery_leader.election.thread.LOOK_PERIOD", 30.0)
    mode, asked = [Candidacy.CONTEND], []

    def candidacy() -> Candidacy:
        asked.append(mode[0])
        return mode[0]

    campaign = leading(make_campaign(conf=SLOW, candidacy=candidacy))
    eventually(lambda: len(asked) >= 3, what="the leader sleeps")  # asked for its attempt, and twice before its sleep
    mode[0] = Candidacy.HOLD
    campaign.close_to_new_work()
    eventually(lambda: released(campaign, ["default"]), 5)


def test_all_leases_are_given_back_at_once(campaign: Campaign) -> None:
    """None waits for another's store: each release here ends only when all have begun."""
    barrier = threading.Barrier(len(ELECTIONS))
    for candidate in campaign.candidates.values():
        candidate.listen(lambda leads: None if leads else barrier.wait(10) and None)
    campaign.stop()
    assert not barrier.broken
    assert released(campaign) == ELECTIONS


def test_guarded_work_of_one_election_holds_up_no_other(make_campaign: Callable[..., Campaign]) -> None:
    """Each candidate says which election's work it means."""
    campaign = leading(make_campaign(ELECTIONS, SLOW, is_busy=lambda election: election == "two"))
    campaign.drain()
    eventually(lambda: released(campaign) == ["one", "three", "four"])


def test_a_process_that_may_contend_now_need_not_wait_for_its_next_look(make_campaign: Callable[..., Campaign]) -> None:
    """It is woken, and leads at once."""
    mode, asked = [Candidacy.OBSERVE], threading.Event()

    def candidacy() -> Candidacy:
        asked.set()
        return mode[0]

    campaign = make_campaign(conf=SLOW, candidacy=candidacy)
    campaign.start()
    assert asked.wait(10)
    mode[0] = Candidacy.CONTEND
    campaign.wake()
    eventually(campaign.candidates["default"].elector.is_leader, 5)


def test_a_process_that_is_not_eligible_only_observes(make_campaign: Callable[..., Campaign]) -> None:
    """Whatever else says that it may contend."""
    assert make_campaign().candidacy() is Candidacy.CONTEND
    assert make_campaign(candidacy=lambda: Candidacy.HOLD).candidacy() is Candidacy.HOLD
    assert make_campaign(conf={"leader_eligible": False}).candidacy() is Candidacy.OBSERVE


def test_a_campaign_that_stopped_leaves_nothing_behind(
    make_campaign: Callable[..., Campaign], caplog: pytest.LogCaptureFixture
) -> None:
    """No answer of its own to the questions of this process, no file; what it takes part in was logged."""
    with state.registered({}), caplog.at_level(logging.INFO):
        campaign = leading(make_campaign(["one", "two", "one"], in_file=True))
        assert f"{campaign.identity} takes part in the elections one, two, kept in" in caplog.text
        paths = [candidate.shared_trust.path for candidate in campaign.candidates.values()]
        assert [path.exists() for path in paths if path] == [True, True]
        assert state.is_leader("two")
        campaign.stop()
        assert state._known_trusts() == {}
        assert [path.exists() for path in paths if path] == [False, False]
