"""A process's candidacies, all at once: how many there are makes none of them slower."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from celery import Celery

from celery_leader import signals
from celery_leader.leadership import state
from celery_leader.leadership.campaign import Campaign, backend_of
from celery_leader.settings import LeaderSettings
from tests.waiting import eventually

ELECTIONS = ["one", "two", "three", "four"]


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    """A process that leads four elections."""
    app = Celery("proj", set_as_current=False)
    app.conf.update(leader_backend=f"memory://{request.node.nodeid}", leader_elections=ELECTIONS)
    settings = LeaderSettings.from_app(app)
    campaign = Campaign(settings, ELECTIONS, backend=backend_of(settings, "proj"), nodename="w@h")
    campaign.start()
    eventually(lambda: all(candidate.leading.is_set() for candidate in campaign.candidates.values()))
    yield campaign
    campaign.stop()


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


def released(campaign: Campaign) -> list[str]:
    """The elections whose lease was given back."""
    return [name for name in ELECTIONS if not campaign.backend.lock(name).get().record.holder_identity]


def test_one_of_two_events_says_whether_a_candidate_leads() -> None:
    """From before the first attempt on; listeners hear of each change, and one that fails keeps none from hearing."""
    app = Celery("proj", set_as_current=False)
    app.conf.update(leader_backend="memory://one-of-two-events")
    settings = LeaderSettings.from_app(app)
    campaign = Campaign(settings, ["default"], backend=backend_of(settings, "proj"), nodename="w@h")
    candidate = campaign.candidates["default"]
    heard: list[bool] = []

    def fail(leads: bool) -> None:
        raise RuntimeError("x")

    candidate.listen(fail)
    candidate.listen(heard.append)

    def events() -> tuple[bool, bool]:
        return candidate.leading.is_set(), candidate.not_leading.is_set()

    try:
        assert events() == (False, True)
        for _ in range(2):  # the second renews
            assert candidate.elector.try_acquire_or_renew()
            assert events() == (True, False)
            assert heard == [True]
        candidate.elector.release()
        assert events() == (False, True)
        assert heard == [True, False]
    finally:
        state.unregister({"default": candidate.shared_trust})
        candidate.elector.lock.close()


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


def test_leases_that_can_not_be_given_back_are_waited_for_once(campaign: Campaign, gate: threading.Event) -> None:
    """Whatever hangs in each election, the process ends after the time it was given."""
    for candidate in campaign.candidates.values():
        candidate.listen(lambda leads: None if leads else gate.wait(60))
    begun = time.monotonic()
    campaign.stop(timeout=1.0)
    assert 1.0 <= time.monotonic() - begun < 2.5
    gate.set()
    eventually(lambda: released(campaign) == ELECTIONS)
