"""What a beat that leads costs: against Celery's own scheduler, and against a bare loop of ``apply_async``.

``python benchmarks/beat.py [--entries 10000] [--store redis|postgres|sqlite]``

All send to one Redis, in turns of a few hundred milliseconds, so that a machine that gets slower does so for all of
them. A wall clock that is set ahead makes all entries due at once. It prints rates, ratios, and what the budgets are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from celery import Celery
from celery.beat import Scheduler

from tests.servers import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds of one turn, and how many turns each gets.
TURN, TURNS = 0.4, 12
#: How often each starts.
STARTS = 5
PERIOD = 3600.0
IDLE = 20.0


class Wall:
    """The apps' wall clock, which can be set ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def rule(self, app: Celery) -> None:
        real = app.now
        app.now = lambda: real() + self.ahead  # type: ignore[method-assign]

    def make_all_due(self) -> None:
        self.ahead += timedelta(seconds=PERIOD + 60)


def make_app(broker: str, store: str, entries: int, name: str = "bench") -> Celery:
    app = Celery(name, broker=broker)
    app.conf.update(
        leader_backend=store,
        leader_key_prefix=name,
        leader_beat=True,
        task_ignore_result=True,
        beat_schedule={
            f"entry {number}": {"task": "bench.nothing", "schedule": PERIOD, "args": [number]}
            for number in range(entries)
        },
    )

    @app.task(name="bench.nothing")
    def nothing(number: int) -> None:
        """Do nothing."""

    return app


class Leader:
    """A beat of ours that leads, with its elector stepped by hand."""

    def __init__(self, app: Celery) -> None:
        from celery_leader.beat.scheduler import leader_scheduler
        from celery_leader.leadership.campaign import Campaign, backend_of
        from celery_leader.settings import LeaderSettings

        settings = LeaderSettings.from_app(app)
        self.campaign = Campaign(settings, ["default"], backend=backend_of(settings, app.main), nodename="bench@host")
        self.scheduler = leader_scheduler(Scheduler)(app=app, campaign=self.campaign)

    def tick(self) -> int:
        """Tick once; return how many messages went out."""
        assert self.campaign.candidates["default"].elector.try_acquire_or_renew()
        before = self.scheduler.counts.sent
        self.scheduler.tick()
        return self.scheduler.counts.sent - before

    def close(self) -> None:
        self.campaign.candidates["default"].elector.release()
        self.scheduler.close()
        self.campaign.stop()


class Bare:
    """What Celery itself can send: messages with the same headers, published by one producer."""

    def __init__(self, app: Celery) -> None:
        self._task = app.tasks["bench.nothing"]
        self._producer = app.amqp.Producer(app.connection_for_write(), auto_declare=False)
        self._numbers = itertools.count()

    def tick(self) -> int:
        headers = {
            "leader_due_at": "2026-11-24T09:00:00+00:00",
            "leader_token": "1795423883143",
            "celery_beat_task": True,
        }
        for number in itertools.islice(self._numbers, 100):
            self._task.apply_async(
                [number], {}, producer=self._producer, task_id=f"{number:036}", headers=dict(headers)
            )
        return 100


class Plain:
    """Celery's own scheduler."""

    def __init__(self, app: Celery) -> None:
        self.scheduler = Scheduler(app)

    def tick(self) -> int:
        return int(self.scheduler.tick() == 0)

    def close(self) -> None:
        self.scheduler.close()


def rate(tick: Callable[[], int]) -> float:
    """Return messages a second over one turn."""
    begun, sent = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < TURN:
        sent += tick()
    return sent / spent


def all_due(app: Celery, wall: Wall) -> None:
    """All entries due at once: three senders in turn."""
    bare, plain, ours = Bare(app), Plain(app), Leader(app)
    for each in (bare, plain, ours):
        each.tick()
    turns = []
    for _ in range(TURNS):
        wall.make_all_due()  # no turn is long enough to send them all
        turns.append((rate(bare.tick), rate(ours.tick), rate(plain.tick)))
    for name, figures in zip(("bare loop", "ours", "Celery"), zip(*turns, strict=True), strict=True):
        print(f"  {name:10} {statistics.median(figures):7.0f} messages/s (median of {TURNS} turns)")
    print(f"  ours / bare loop {statistics.median(own / limit for limit, own, _ in turns):6.2f}   (budget: >= 0.95)")
    print(f"  ours / Celery    {statistics.median(own / plain for _, own, plain in turns):6.1f}   (budget: >= 20)")
    ours.close()


def start_up(broker: str, store: str, entries: int) -> None:
    """From nothing to the end of the first tick, in turns: an empty ledger, and one that knows all entries."""
    spent: dict[str, list[float]] = {"Celery": [], "ours, first": [], "ours, next": []}
    for turn in range(STARTS):
        app = make_app(broker, store, entries, f"bench-start-{turn}")
        for kind, figures in spent.items():
            begun = time.perf_counter()
            scheduler = Plain(app) if kind == "Celery" else Leader(app)
            scheduler.tick()
            figures.append(time.perf_counter() - begun)
            scheduler.close()
    for name, figures in spent.items():
        ratio = statistics.median(own / plain for own, plain in zip(figures, spent["Celery"], strict=True))
        print(f"  start-up {name:12} {statistics.median(figures):5.2f} s, {ratio:.2f} x Celery's (budget: <= 1.5)")


def idle(app: Celery) -> None:
    """No entry due: how much of a core waiting takes."""
    ours = Leader(app)
    while ours.tick():
        pass
    begun, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < IDLE:
        ours.tick()
        time.sleep(1.0)  # as the beat inside a worker does
    share = (time.process_time() - used) / (time.perf_counter() - begun)
    print(f"  idle, a tick each second, renewals included: {share:.2%} of a core (budget: <= 1 %)")
    ours.close()


def memory_of(kind: str, broker: str, store: str, entries: int) -> float:
    """Return what an entry takes in memory, in bytes, once its scheduler has ticked."""
    app = make_app(broker, store, entries, "bench-memory")
    Leader(make_app(broker, store, 1, f"bench-imports-{kind}")).tick()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    made = Leader(app) if kind == "ours" else Plain(app)
    made.tick()
    return (tracemalloc.get_traced_memory()[0] - before) / entries


def memory(broker: str, store: str, entries: int) -> None:
    """Each scheduler in a process of its own."""
    sizes = {}
    for kind in ("Celery", "ours"):
        command = [sys.executable, __file__, "--memory-of", kind, "--broker", broker, "--url", store]
        done = subprocess.run([*command, "--entries", str(entries)], check=True, capture_output=True, text=True)
        sizes[kind] = json.loads(done.stdout)
        print(f"  memory {kind:7} {sizes[kind]:6.0f} bytes an entry")
    print(f"  ours / Celery {sizes['ours'] / sizes['Celery']:.2f} (budget: <= 1.2)")


def open_store(kind: str, stack: ExitStack, broker: RedisServer) -> str:
    """Return the URL of a store of that kind."""
    if kind == "redis":
        return broker.url
    if kind == "postgres":
        database = stack.enter_context(PostgresServer()).django
    else:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/db.sqlite3"}
    os.environ["BENCH_DATABASE"] = json.dumps(database)
    set_up_django()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    return "django-db://default"


def set_up_django() -> None:
    if database := os.environ.get("BENCH_DATABASE"):
        import django
        from django.conf import settings

        settings.configure(
            INSTALLED_APPS=["celery_leader.django"], DATABASES={"default": json.loads(database)}, USE_TZ=True
        )
        django.setup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--store", choices=["redis", "postgres", "sqlite"], default="redis")
    parser.add_argument("--memory-of", choices=["ours", "Celery"], help=argparse.SUPPRESS)
    parser.add_argument("--broker", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.memory_of:
        set_up_django()
        print(memory_of(options.memory_of, options.broker, options.url, options.entries))
        return
    with ExitStack() as stack:
        broker = stack.enter_context(RedisServer())
        store = open_store(options.store, stack, broker)
        print(f"{options.entries} entries, ledger in {options.store}, broker Redis, "
              f"Python {sys.version.split()[0]}, {os.cpu_count()} cores")  # fmt: skip
        wall = Wall()
        app = make_app(broker.url, store, options.entries)
        wall.rule(app)
        all_due(app, wall)
        start_up(broker.url, store, options.entries)
        idle(app)
        memory(broker.url, store, options.entries)
        print(f"  most memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
