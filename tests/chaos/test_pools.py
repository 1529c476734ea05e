"""Every kind of pool elects, tells its children, runs guarded tasks, ticks and hands over."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import celery
import pytest

from tests.chaos.fleet import LEASE, Fleet
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

#: The settings by which pool children are spawned: billiard's of this project, and Celery's own, which 5.7 brought.
SPAWNING = ["chaos_start_method", *(["worker_pool_start_method"] if celery.VERSION >= (5, 7) else [])]


@pytest.mark.parametrize(
    "options",
    [
        ("-P", "prefork", "-c", "2"),
        ("-P", "threads", "-c", "2"),
        ("-P", "solo"),
        ("-P", "gevent", "-c", "4"),
        ("-P", "eventlet", "-c", "4"),
    ],
)
def test_a_pool_works_and_hands_over(fleet: Fleet, options: tuple[str, ...]) -> None:
    """Ticks and guarded tasks run on the leader, and after its SIGTERM on the next."""
    fleet.start("one", *options)
    assert fleet.await_ticking_leader() == "one"
    fleet.send_guarded(3)
    eventually(lambda: not fleet.evidence().guarded_wrong(3, set()), timeout=20)
    fleet.start("two", *options)
    fleet.await_ready("two")
    terms = len(fleet.evidence().terms())
    fleet.signal("one", signal.SIGTERM)
    fleet.await_term(terms)
    assert fleet.await_end("one") == 0
    assert fleet.await_ticking_leader() == "two"
    fleet.send_guarded(3)
    eventually(lambda: not fleet.evidence().guarded_wrong(6, set()), timeout=20)
    assert fleet.evidence().overlaps() == []
    assert fleet.evidence().twice() == []
    fleet.stop_all()
    assert fleet.times_logged("Traceback", "one", "two") == 0, fleet.log_of("one") + fleet.log_of("two")


@pytest.mark.parametrize("options", [("-c", "2", "--max-tasks-per-child", "1"), ("--autoscale", "4,1")])
def test_every_child_answers_rightly(fleet: Fleet, options: tuple[str, ...]) -> None:
    """Children that were forked long after the term began, on the leader and on the follower."""
    fleet.conf["beat_schedule"] = {}
    fleet.start("lead", *options)
    leader = fleet.await_leader()
    fleet.start("follow", *options)
    fleet.await_ready("follow")
    parents = {name: fleet.processes[name].pid for name in ("lead", "follow")}
    numbers = itertools.count()

    def asked_all() -> bool:
        """Ask a few more: a pool grows when it has work, and each child ends when it has had one."""
        for _ in range(10):
            fleet.app.send_task("chaos_project.ask", (next(numbers),))
        answers = fleet.evidence().of("answer")
        askers = {answer["parent"] for answer in answers}, {answer["pid"] for answer in answers}
        return len(answers) >= 60 and askers[0] == set(parents.values()) and len(askers[1]) > 2

    eventually(asked_all, timeout=60, interval=0.2)
    answers = fleet.evidence().of("answer")
    wrong = [answer for answer in answers if answer["leads"] != (answer["parent"] == parents[leader])]
    assert wrong == []
    named = [answer for answer in answers if not answer["leader"].startswith(f"{leader}@")]
    assert named == []


def trust_files(fleet: Fleet, name: str) -> list[Path]:
    """The files in which a worker tells its children what it trusts."""
    return list(Path("/dev/shm").glob(f"celery-leader-trust-{fleet.processes[name].pid}-*"))


@pytest.mark.parametrize("setting", SPAWNING)
def test_spawned_children_answer_rightly(fleet: Fleet, setting: str) -> None:
    """They inherit no memory: a file tells them. That of a worker that was killed goes with the next one's start."""
    fleet.conf |= {setting: "spawn", "beat_schedule": {}}
    fleet.start("one", "-c", "2")
    fleet.await_leader()
    for number in range(6):
        fleet.app.send_task("chaos_project.ask", (number,))
    fleet.send_guarded(3)
    eventually(lambda: not fleet.evidence().guarded_wrong(3, set()), timeout=40)
    answers = eventually(lambda: len(found := fleet.evidence().of("answer")) == 6 and found, timeout=20)
    assert answers
    assert {(answer["leads"], answer["parent"]) for answer in answers} == {(True, fleet.processes["one"].pid)}
    for pid in {answer["pid"] for answer in answers}:
        assert b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    files = trust_files(fleet, "one")
    assert len(files) == 1

    fleet.signal_all("one", signal.SIGKILL)
    fleet.await_end("one")
    assert [path for path in files if path.exists()] == files
    fleet.start("two", "-c", "2")
    assert fleet.await_leader() == "two"
    assert [path for path in files if path.exists()] == []
    fleet.send_guarded(3)
    eventually(lambda: not fleet.evidence().guarded_wrong(6, set()), timeout=40)
    (left,) = trust_files(fleet, "two")
    fleet.stop_all()
    assert not left.exists()


def test_children_of_a_paused_worker_stop_believing_in_time(fleet: Fleet) -> None:
    """Only the main process is paused; its child sees the deadline pass before anybody else leads."""
    fleet.conf["beat_schedule"] = {}
    fleet.start("one", "-c", "1")
    fleet.await_leader()
    fleet.app.send_task("chaos_project.keep_asking", (5 * LEASE,))
    eventually(lambda: fleet.evidence().of("belief"), timeout=20)
    fleet.start("two", "-c", "1")
    fleet.await_ready("two")
    fleet.signal("one", signal.SIGSTOP)
    try:
        begun = fleet.await_term(1)
        ended = [line["at"] for line in fleet.evidence().of("belief") if not line["leads"]]
        assert ended
        assert ended[0] < begun
        print(f"\nchaos: the child stopped believing {begun - ended[0]:.2f} s before the next term")  # noqa: T201
    finally:
        fleet.signal("one", signal.SIGCONT)
    eventually(lambda: fleet.leader() == "two", timeout=20)
    assert sorted(fleet.alive()) == ["one", "two"]
    assert fleet.evidence().overlaps() == []


def test_messages_that_a_deposed_leader_had_prefetched_run_on_the_next(fleet: Fleet) -> None:
    """Exactly once, though they were with a worker that lost its trust before they began."""
    fleet.conf["worker_prefetch_multiplier"] = 8
    fleet.start("one", "-c", "1")
    fleet.await_leader()
    fleet.send_guarded(1, 1.0)
    fleet.send_guarded(7, 0.05)
    eventually(lambda: fleet.evidence().of("guarded-start"), timeout=20)
    fleet.start("two", "-c", "1")
    fleet.await_ready("two")
    fleet.signal_all("one", signal.SIGSTOP)
    fleet.await_term(1)
    fleet.signal_all("one", signal.SIGCONT)
    eventually(lambda: not fleet.evidence().guarded_wrong(8, set()), timeout=60)
    assert fleet.evidence().overlaps() == []
    assert sorted(fleet.alive()) == ["one", "two"]
