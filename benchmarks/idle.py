"""What a worker costs beside a plain one while nothing happens: processor, memory, start-up.

``python -m benchmarks.idle [--store redis|postgres] [--seconds 60] [--starts 10]``

A plain Celery worker, a leader with an embedded beat and a follower, each with two prefork children and all on one
Redis, are idle at the same time, so that whatever else the machine does it does to all of them. Then plain workers and
ours are started in turns. Processor time is what the kernel counted, in nanoseconds; memory is the proportional set
size of all processes of a worker.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.project import Project
from tests.servers import PostgresServer, RedisServer
from tests.servers.processes import family

if TYPE_CHECKING:
    from tests.project import Running

#: Allowed beside a plain worker: part of a core, MiB, milliseconds.
BUDGETS = {"processor": 0.2, "memory": 6.0, "start-up": 100.0}
#: Seconds until a worker that is ready has nothing left to do.
SETTLING = 8.0

PLAIN = """
    import time
    from celery import Celery
    from celery.signals import worker_ready

    app = Celery("plain", broker={broker!r})
    app.conf.update(task_ignore_result=True, worker_redirect_stdouts=False)

    @app.task
    def tick(): ...

    @worker_ready.connect
    def ready(**_):
        print("ready at", time.monotonic(), flush=True)
"""
OURS = """
    {django}
    from plain import app
    import celery_leader

    app.conf.update(
        leader_backend={store!r}, leader_beat=True, leader_key_prefix="idle", task_default_queue="ours",
        beat_schedule={{"tick": {{"task": "plain.tick", "schedule": 3600.0}}}},
    )
    celery_leader.setup(app)
"""
DJANGO = """
    import django
    from django.conf import settings
    settings.configure(
        DATABASES={{"default": {database!r}}}, INSTALLED_APPS=["celery_leader.django"], USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command
    call_command("migrate", verbosity=0)
"""


class Usage(NamedTuple):
    """What the processes of a worker have used: seconds of a core, and MiB."""

    processor: float
    memory: float


def usage(worker: Running) -> Usage:
    """Return what *worker* and its children have used until now."""
    processor = memory = 0.0
    for pid in family(worker.pid):
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(FileNotFoundError):
                processor += int(stat.read_text().split()[0]) / 1e9
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        memory += int(rollup.partition("\nPss:")[2].split()[0]) / 1024
    return Usage(processor, memory)


def start(project: Project, app: str, name: str) -> Running:
    return project.start("worker", "-c", "2", "-n", f"{name}@h", app=app)


def measure_idle(project: Project, seconds: float) -> None:
    """Print what each of three idle workers uses."""
    workers = {"plain": start(project, "plain", "plain")}
    for name in ("leader", "follower"):
        workers[name] = start(project, "ours", name)
        workers[name].await_line("ready at", 60)
    time.sleep(SETTLING)
    before, begun = {name: usage(worker) for name, worker in workers.items()}, time.monotonic()
    time.sleep(seconds)
    after, passed = {name: usage(worker) for name, worker in workers.items()}, time.monotonic() - begun
    shares = {name: 100 * (after[name].processor - before[name].processor) / passed for name in workers}
    print(f"idle for {passed:.0f} s         processor             memory")
    for name in workers:
        print(f"  {name:10}  {shares[name]:6.3f} % of a core    {after[name].memory:6.1f} MiB")
    for name in ("leader", "follower"):
        verdict("processor", f"{name}: processor", shares[name] - shares["plain"], "% of a core")
        verdict("memory", f"{name}: memory", after[name].memory - after["plain"].memory, "MiB")
    for worker in workers.values():
        worker.end()


def start_up(project: Project, app: str) -> float:
    """Return how many milliseconds a worker takes to be ready."""
    begun = time.monotonic()
    worker = start(project, app, "starting")
    ready = float(worker.await_line(r"ready at \d+\.\d+", 60).split()[-1])
    worker.end()
    return (ready - begun) * 1e3


def measure_start_up(project: Project, starts: int) -> None:
    """Print how long workers take to start, in turns."""
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(starts):
        for app, taken in times.items():
            taken.append(start_up(project, app))
    plain, ours = (statistics.median(taken) for taken in times.values())
    print(f"start-up: plain {plain:.0f} ms, ours {ours:.0f} ms (medians of {starts})")
    verdict("start-up", "start-up", ours - plain, "ms")


def verdict(budget: str, what: str, more: float, unit: str) -> None:
    print(f"  {what}: {more:+.2f} {unit} (budget {BUDGETS[budget]:g}) {'ok' if more <= BUDGETS[budget] else 'OVER'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["redis", "postgres"], default="redis")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    with ExitStack() as stack:
        broker = stack.enter_context(RedisServer())
        project = stack.enter_context(Project(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        store, django = broker.url, ""
        if options.store == "postgres":
            database = stack.enter_context(PostgresServer()).create_database("idle")
            store, django = "django-db://default", DJANGO.format(database=database)
        project.write("plain.py", PLAIN.format(broker=broker.url))
        project.write("ours.py", OURS.format(store=store, django=django))
        measure_idle(project, options.seconds)
        measure_start_up(project, options.starts)


if __name__ == "__main__":
    main()
