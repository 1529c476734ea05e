"""A worker that stops warmly: each message it had is acknowledged or goes back, once, and soon."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
import redis

from tests.chaos.fleet import Fleet
from tests.servers import RabbitServer, RedisServer
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

RABBIT = pytest.param(RabbitServer, marks=pytest.mark.rabbitmq)
#: The longest (seconds) that a worker takes to stop that runs nothing, on two busy cores.
STOP = 8.0
#: How long (seconds) a worker is busy with another task.
BUSY = 6.0


@pytest.fixture
def pair(fleet: Fleet) -> Iterator[Fleet]:
    """A fleet without ticks whose broker delivers again nothing that it gave away."""
    fleet.conf["beat_schedule"] = {}
    fleet.visibility = 600
    yield fleet
    print(f"\nchaos: {fleet.broker.name}: {fleet.evidence().of('guarded-start')}")  # noqa: T201


def lead_and_follow(fleet: Fleet) -> None:
    """Start a leader, which may stop itself, and a follower, which does not."""
    fleet.start("one", "-c", "1", "-Q", "celery,one")
    assert fleet.await_leader() == "one"
    fleet.conf.pop("chaos_stops", None)
    fleet.start("two", "-c", "1")
    fleet.await_ready("two")


def keep_busy(fleet: Fleet) -> float:
    """Let the only child of the leader run a task that anybody may run; return until when, by the boot-time clock."""
    fleet.app.send_task("chaos_project.keep_asking", (BUSY,), queue="one")
    (line,) = eventually(lambda: fleet.evidence().of("belief"), timeout=20)
    return float(line["at"]) + BUSY


def ended_after(fleet: Fleet, name: str) -> float:
    """Wait until a worker that was asked to stop has ended; return how long (seconds) that took."""
    eventually(lambda: fleet.times_logged("Warm shutdown", name), timeout=20)
    begun = time.monotonic()
    assert fleet.await_end(name) == 0
    return time.monotonic() - begun


def is_empty(fleet: Fleet) -> bool:
    """Whether the broker has no message any more, waiting or with a worker."""
    if not isinstance(fleet.broker, RedisServer):
        return True
    with redis.Redis.from_url(fleet.broker.url) as raw:
        return not (raw.llen("celery-leader.default") or raw.hlen("unacked"))


@pytest.mark.quick
@pytest.mark.parametrize("broker", [RedisServer, RABBIT], indirect=True)
@pytest.mark.parametrize("when", ["written", "begun"])
def test_a_task_that_a_child_was_just_given_runs_once(pair: Fleet, when: str) -> None:
    """Celery forgets it, as its child has not said yet that it has it. It began, or goes back; never both."""
    pair.conf["chaos_stops"] = when
    lead_and_follow(pair)
    pair.send_guarded(1, 1.5)
    assert ended_after(pair, "one") < STOP
    eventually(lambda: not pair.evidence().guarded_wrong(1, set()) and is_empty(pair), timeout=20)
    pair.stop_all()
    assert len(pair.evidence().of("guarded-start")) == 1
    if when == "begun":  # and the lease was kept for it
        (ended,) = pair.evidence().of("guarded-end")
        assert pair.evidence().terms()[1][0] > ended["at"]


@pytest.mark.parametrize("broker", [RedisServer, RABBIT], indirect=True)
def test_what_has_not_begun_goes_back_at_once(pair: Fleet) -> None:
    """Not when the last of the stopping worker's other tasks has ended: the next leader waits for it."""
    pair.conf["worker_prefetch_multiplier"] = 8
    lead_and_follow(pair)
    until = keep_busy(pair)
    pair.send_guarded(3)
    eventually(lambda: pair.times_logged("chaos_project.guarded[", "one") == 3, timeout=20)
    pair.signal("one", signal.SIGTERM)
    eventually(lambda: not pair.evidence().guarded_wrong(3, set()), timeout=20)
    assert max(line["at"] for line in pair.evidence().of("guarded-start")) < until
    pair.await_end("one")
    pair.stop_all()
    assert len(pair.evidence().of("guarded-start")) == 3


@pytest.mark.parametrize("broker", [RedisServer, RABBIT], indirect=True)
def test_threads_that_give_back_beside_the_main_loop_cost_no_acknowledgement(pair: Fleet) -> None:
    """A free thread takes a message that the main loop has not yet given back, and rejects it itself."""
    pair.conf.update(worker_prefetch_multiplier=8, chaos_reject_time=0.3)
    pair.start("one", "-P", "threads", "-c", "2")
    assert pair.await_leader() == "one"
    for count, seconds in ((1, 3.0), (1, 1.0), (5, 0.0)):
        pair.send_guarded(count, seconds)
    eventually(lambda: pair.times_logged("chaos_project.guarded[", "one") == 7, timeout=20)
    pair.start("two", "-c", "1")
    pair.signal("one", signal.SIGTERM)
    pair.await_end("one")
    eventually(lambda: not pair.evidence().guarded_wrong(7, set()) and is_empty(pair), timeout=20)
    pair.stop_all()
    assert pair.times_logged("Error on stopping", "one") == 0
    assert len(pair.evidence().of("guarded-start")) == 7


def test_what_a_thread_has_finished_is_acknowledged_while_others_run(pair: Fleet) -> None:
    """A worker that is killed before its last task has ended leaves nothing to the broker that is done."""
    pair.start("one", "-P", "threads", "-c", "2", "-Q", "celery,one")
    assert pair.await_leader() == "one"
    until = keep_busy(pair)
    pair.send_guarded(1, 1.0)
    eventually(lambda: pair.evidence().of("guarded-start"), timeout=20)
    pair.signal("one", signal.SIGTERM)
    eventually(lambda: is_empty(pair), timeout=20)
    assert time.clock_gettime(time.CLOCK_BOOTTIME) < until
    assert len(pair.evidence().of("guarded-end")) == 1


@pytest.mark.parametrize("broker", [RABBIT], indirect=True)
def test_a_broker_that_listens_for_heartbeats_keeps_what_threads_run(pair: Fleet) -> None:
    """Without heartbeats it would redeliver the tasks that a stopping worker still runs."""
    pair.conf["broker_heartbeat"] = 4  # RabbitMQ waits for two, and looks now and then
    pair.start("one", "-P", "threads", "-c", "2")
    assert pair.await_leader() == "one"
    pair.start("two", "-P", "threads", "-c", "1")
    pair.await_ready("two")
    pair.send_guarded(1, 15.0)
    eventually(lambda: pair.evidence().of("guarded-start"), timeout=20)
    pair.signal("one", signal.SIGTERM)
    pair.await_end("one")
    pair.send_guarded(1)  # comes after what was delivered again
    eventually(lambda: not pair.evidence().guarded_wrong(2, set()), timeout=20)
    pair.stop_all()
    assert len(pair.evidence().of("guarded-start")) == 2


def test_a_pop_that_waits_takes_no_message_with_it(pair: Fleet) -> None:
    """Redis gives a message to the client that has waited longest: a worker that no longer consumes."""
    pair.conf["worker_prefetch_multiplier"] = 8
    lead_and_follow(pair)
    until = keep_busy(pair)
    pair.signal("one", signal.SIGTERM)
    pair.send_guarded(1)
    eventually(lambda: not pair.evidence().guarded_wrong(1, set()), timeout=20)
    assert pair.evidence().of("guarded-start")[0]["at"] < until


@pytest.mark.parametrize("broker", [RedisServer, RABBIT], indirect=True)
def test_a_leader_that_wakes_copies_nothing(pair: Fleet) -> None:
    """It finds a message that came while it was paused, and leads no more: that goes back, by any exchange."""
    lead_and_follow(pair)
    pair.signal_all("one", signal.SIGSTOP)
    pair.send_guarded(2)
    pair.await_term(1)
    pair.signal_all("one", signal.SIGCONT)
    eventually(lambda: not pair.evidence().guarded_wrong(2, set()) and is_empty(pair), timeout=20)
    assert pair.times_logged("forwarded", "one") == 0
    pair.stop_all()
    assert len(pair.evidence().of("guarded-start")) == 2
