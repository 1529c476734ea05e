"""Beats with the schedules of others as real processes: they are killed, and schedules are edited meanwhile."""

from __future__ import annotations

import json
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.fleet import CANDIDATE, LONGEST_TAKEOVER, PERIODS, Fleet
from tests.servers import PostgresServer, RedisServer
from tests.waiting import eventually

pytestmark = [pytest.mark.bases, pytest.mark.timeout(300)]

#: How long (seconds) the base takes to look for edits, and a second for the tick that follows.
TAKES_EFFECT = 5 + 1


class DatabaseFleet(Fleet):
    """Processes whose beats have their schedule in the database."""

    @property
    def environment(self) -> dict[str, str]:
        """What the processes find."""
        return {**super().environment, "DJANGO_SETTINGS_MODULE": "tests.beat.bases.process_settings"}

    def in_django(self, code: str) -> str:
        """Run *code* where Django is set up; return what it printed."""
        setup = "import django, json; django.setup(); from django_celery_beat.models import *\n"
        return self._run(sys.executable, "-c", setup + code)

    def add(self, name: str) -> float:
        """Add an entry as the admin does, due each second; return in how many seconds its first tick was executed."""
        self.in_django(
            "every, _ = IntervalSchedule.objects.get_or_create(every=1, period='seconds')\n"
            f"args = json.dumps(['{name}'])\n"
            f"PeriodicTask.objects.create(name='{name}', task='chaos_project.tick', args=args, interval=every)"
        )
        added = time.monotonic()
        eventually(lambda: self.evidence().ticks(name), timeout=20, what=f"a tick of {name}")
        return time.monotonic() - added

    def run_counts(self) -> dict[str, int]:
        """Return how often each entry ran, as the admin shows it."""
        code = "print(json.dumps(dict(PeriodicTask.objects.values_list('name', 'total_run_count'))))"
        return dict(json.loads(self.in_django(code)))


@pytest.fixture
def fleet(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[DatabaseFleet]:
    """No process yet."""
    with RedisServer() as broker:
        database = postgres_server.create_database(f"beats_{uuid.uuid4().hex}")
        conf = {"leader_beat": False, "result_expires": None}  # else there is an entry of Celery's own
        with DatabaseFleet(tmp_path, broker, "django-db://default", database, conf, election="beat") as fleet:
            yield fleet


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_two_beats_on_one_schedule(fleet: DatabaseFleet) -> None:
    """No tick twice, none lost, edits take effect whoever leads, and the admin counts what was sent."""
    fleet.start("worker", "-P", "threads", "-c", "2")
    for name in ("one", "two"):
        fleet.start_beat(name, scheduler="leader-django")

    killed = fleet.await_ticking_leader()
    took_effect = [fleet.add("under the first")]
    terms = len(fleet.evidence().terms())
    begun = fleet.signal(killed, signal.SIGKILL)
    fleet.await_end(killed)
    takeovers = [fleet.await_term(terms) - begun]
    assert fleet.await_ticking_leader() != killed
    took_effect.append(fleet.add("under the second"))
    fleet.start_beat(killed, scheduler="leader-django")
    fleet.await_logged(killed, CANDIDATE)
    for name in ("one", "two"):  # one leads, one stands by
        fleet.signal(name, signal.SIGTERM)
        assert fleet.await_end(name) == 0
    claimed = fleet.claimed()
    eventually(lambda: not fleet.evidence().lost(claimed, PERIODS, LONGEST_TAKEOVER), timeout=20)
    fleet.report(takeovers)
    assert max(took_effect) < TAKES_EFFECT
    assert fleet.evidence().overlaps() == []
    assert fleet.evidence().twice() == []
    assert fleet.evidence().repeated() <= 1  # killed between sending and confirming: sent again
    assert fleet.evidence().unclaimed(claimed) == {}
    assert fleet.run_counts() == claimed
    assert takeovers[0] < LONGEST_TAKEOVER


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_workers_with_a_beat_read_the_same_schedule(fleet: DatabaseFleet) -> None:
    """In a thread beside a pool whose children are forked, then in a greenlet."""
    fleet.election = "default"
    fleet.conf.update(leader_beat=True, leader_beat_scheduler="django")
    fleet.start("forks", "-P", "prefork", "-c", "2")
    fleet.await_ticking_leader()
    fleet.start("greens", "-P", "gevent", "-c", "2")
    took_effect = [fleet.add("under the first")]
    fleet.await_ready("greens")
    fleet.signal("forks", signal.SIGTERM)
    assert fleet.await_end("forks") == 0
    assert fleet.await_ticking_leader() == "greens"
    took_effect.append(fleet.add("under the second"))
    fleet.signal("greens", signal.SIGTERM)
    assert fleet.await_end("greens") == 0
    assert max(took_effect) < TAKES_EFFECT
    assert fleet.evidence().twice() == []
    assert fleet.run_counts() == fleet.claimed()
    assert fleet.times_logged("Traceback", "forks", "greens") == 0


@pytest.mark.redis
def test_two_beats_on_redbeat(tmp_path: Path) -> None:
    """No tick twice, none lost, over a kill and an orderly end; RedBeat's own lock would take minutes."""
    with RedisServer() as server:
        conf = {"leader_beat": False, "result_expires": None, "redbeat_redis_url": f"{server.url.removesuffix('0')}1"}
        scheduler = "tests.beat.bases.redbeat_scheduler:LeaderRedBeatScheduler"
        with Fleet(tmp_path, server, server.url, conf=conf, election="beat") as fleet:
            fleet.start("worker", "-P", "threads", "-c", "2")
            for name in ("one", "two"):
                fleet.start_beat(name, scheduler=scheduler)
            takeovers = []
            for number in (signal.SIGKILL, signal.SIGTERM):
                leader = fleet.await_ticking_leader()
                terms = len(fleet.evidence().terms())
                begun = fleet.signal(leader, number)
                fleet.await_end(leader)
                if number == signal.SIGKILL:
                    takeovers.append(fleet.await_term(terms) - begun)
            claimed = fleet.claimed()
            eventually(lambda: not fleet.evidence().lost(claimed, PERIODS, LONGEST_TAKEOVER), timeout=20)
            fleet.report(takeovers)
            assert fleet.evidence().overlaps() == []
            assert fleet.evidence().twice() == []
            assert fleet.evidence().repeated() <= 1  # killed between sending and confirming: sent again
            assert fleet.evidence().unclaimed(claimed) == {}
            assert takeovers[0] < LONGEST_TAKEOVER
