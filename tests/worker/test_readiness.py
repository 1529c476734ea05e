"""A worker that can't work must not lead."""

from __future__ import annotations

from unittest import mock

from celery_leader.election import Candidacy
from celery_leader.worker.readiness import Readiness


def readiness(*, required: bool = True, watches_loop: bool = True, lease: float = 15.0) -> Readiness:
    return Readiness(required=required, watches_loop=watches_loop, lease_duration=lease)


def at(seconds: float) -> mock._patch[mock.MagicMock]:
    """Let the clock of readiness show *seconds*."""
    return mock.patch("celery_leader.worker.readiness.time.monotonic", return_value=seconds)


def test_it_observes_until_its_consumer_is_ready() -> None:
    """A worker without a broker runs nothing."""
    worker = readiness()
    assert (worker.is_ready, worker.candidacy()) == (False, Candidacy.OBSERVE)
    worker.loop_turned()
    assert (worker.is_ready, worker.candidacy()) == (True, Candidacy.CONTEND)


def test_a_frozen_main_loop_ends_candidacy_and_a_turning_one_brings_it_back() -> None:
    """30 seconds, whatever the lease, unless that is longer."""
    worker, patient = readiness(), readiness(lease=60)
    with at(100):
        worker.loop_turned()
        patient.loop_turned()
    with at(130):
        assert worker.candidacy() is Candidacy.CONTEND
    with at(130.1):
        assert worker.candidacy() is Candidacy.OBSERVE
        assert patient.candidacy() is Candidacy.CONTEND
        worker.loop_turned()
        assert worker.candidacy() is Candidacy.CONTEND


def test_a_pool_that_runs_tasks_in_the_main_loop_may_stand_still() -> None:
    """Solo: the loop waits for the task."""
    worker = readiness(watches_loop=False)
    with at(100):
        worker.loop_turned()
    with at(1000):
        assert worker.candidacy() is Candidacy.CONTEND


def test_readiness_need_not_be_asked_for() -> None:
    """``leader_require_ready = False``."""
    assert readiness(required=False).candidacy() is Candidacy.CONTEND


def test_a_worker_on_its_way_out_acquires_nothing() -> None:
    """It holds what it has, until its guarded work has ended."""
    worker = readiness()
    worker.loop_turned()
    worker.shutting_down = True
    assert worker.candidacy() is Candidacy.HOLD
