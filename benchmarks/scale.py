"""What many candidates of one election ask of one store: all the while, and in the second after a vacancy.

Run it with ``python -m benchmarks.scale [--store redis postgres] [--candidates 1000] [--processes 2]``. Each candidate
is the product's own elector with its threads, at the default durations (15, 10, 2). A deployment has a machine for
each; here all share this one's cores, so the threads are greenlets of a few processes: with thousands of real ones the
table would show how Python hands its lock from one to the next. On Redis each candidate has its two connections, as in
a deployment. On PostgreSQL a thousand times two sessions would be as many server processes: the candidates of a process
share a few connections (``--shared``) and one listener, so the table shows requests and hints, not what so many
sessions cost the server.

A request is one call of the store: a look, or a write. The servers' own counters stand beside.
"""

from __future__ import annotations

if __name__ == "__mp_main__":  # a process of candidates: before anything else is imported
    from gevent import monkey

    monkey.patch_all()

import argparse
import multiprocessing
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import redis

from celery_leader.backends import open_backend
from tests.crowd import Crowd, count, most_at_once, next_term, now
from tests.servers import PostgresServer, RedisServer
from tests.waiting import eventually

RETRY_PERIOD = 2.0
ELECTION = "scale"


# -- candidates, in processes of their own ----------------------------------------------------------------------------


def redis_locks(url: str, number: int, shared: int) -> list[Any]:
    backend = open_backend(url)
    return [backend.lock(ELECTION) for _ in range(number)]


def postgres_locks(database: dict[str, Any], number: int, shared: int) -> list[Any]:
    set_up_django(database)
    from celery_leader.django.connection import OwnConnection
    from celery_leader.django.lock import DjangoLock
    from celery_leader.django.notifications import PostgresListener, channel_of

    class SharingLock(DjangoLock):
        """Polls by itself and keeps its connection: others use it."""

        def wait(self, timeout: float) -> None:
            self._notifications.wait(timeout)

        def close(self) -> None:
            pass

    class Everybody:
        """Passes on what one listener hears."""

        def heard(self, holder: str) -> None:
            for lock in locks:
                lock._notifications.heard(holder)  # noqa: SLF001

    connections = [OwnConnection("default", timeout=5) for _ in range(shared)]
    locks = [SharingLock(connections[index % shared], ELECTION) for index in range(number)]
    PostgresListener(connections[0], channel_of(ELECTION), Everybody())
    return locks


def set_up_django(database: dict[str, Any]) -> None:
    import django
    from django.conf import settings

    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["celery_leader.django"], USE_TZ=True)
    django.setup()


LOCKS: dict[str, Callable[..., list[Any]]] = {"redis": redis_locks, "postgres": postgres_locks}


def run(orders: Connection, store: str, where: Any, number: int, shared: int) -> None:
    """Be one process of candidates: do what is ordered, answer with the result."""
    crowd = Crowd(LOCKS[store](where, number, shared), name=f"{multiprocessing.current_process().name}-")
    answers: dict[str, Callable[..., Any]] = {
        "start": crowd.start,
        "know": crowd.know,
        "leads": lambda: crowd.leader() is not None,
        "stop_leader": lambda silently: crowd.stop_leader(silently=silently),
        "count": lambda since, until: count(crowd.requests, since, until),
        "trusts": lambda: list(crowd.trusts),
    }
    while True:
        while not orders.poll():
            time.sleep(0.02)  # recv() would hold up the greenlets
        name, *arguments = orders.recv()
        orders.send(answers[name](*arguments))


class Candidates:
    """All of them, wherever they are."""

    def __init__(self, store: str, where: Any, number: int, processes: int, shared: int) -> None:
        self._pipes: list[Connection] = []
        self._processes = []
        context = multiprocessing.get_context("spawn")
        for index in range(processes):
            ours, theirs = context.Pipe()
            share = number // processes + (index < number % processes)
            self._processes.append(
                context.Process(target=run, args=(theirs, store, where, share, shared), name=f"p{index}", daemon=True)
            )
            self._processes[-1].start()
            self._pipes.append(ours)

    def ask(self, *order: Any) -> list[Any]:
        """Order all processes to do something; return what each answered."""
        for pipe in self._pipes:
            pipe.send(order)
        return [pipe.recv() for pipe in self._pipes]

    def gather(self, what: str) -> list[Any]:
        return [each for answer in self.ask(what) for each in answer]

    def count(self, since: float, until: float) -> int:
        """Return how many requests all made between two moments."""
        return sum(self.ask("count", since, until))

    def stop_leader(self, *, silently: bool) -> float:
        """Stop who leads; return when its trust had ended."""
        place = eventually(lambda: [index for index, leads in enumerate(self.ask("leads")) if leads], 60)[0]
        self._pipes[place].send(("stop_leader", silently))
        ended: float = self._pipes[place].recv()
        return ended

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


# -- what the server counts -------------------------------------------------------------------------------------------


class RedisCounters:
    """Commands from outside, by INFO commandstats; a script's own GET counts there, too, and is taken off."""

    unit = "commands"

    def __init__(self, server: RedisServer) -> None:
        self._client = redis.Redis.from_url(server.url)

    def total(self) -> int:
        stats = self._client.info("commandstats")
        scripts, looks = (stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "get"))
        return int(scripts + (looks - scripts))


class PostgresCounters:
    """Transactions, by pg_stat_database: a request is two, because each connection is examined before its use."""

    unit = "transactions"

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def total(self) -> int:
        time.sleep(1.1)  # sessions report once a second
        sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'leader'"
        return int(self._server.execute(sql))


# -- the measurement --------------------------------------------------------------------------------------------------


@dataclass
class Vacancy:
    """One change of leader."""

    kind: str
    lasted: float  # seconds
    requests: int  # in the second after


@dataclass
class Measured:
    """What one store had to do."""

    steady: float  # requests a second
    counted: str
    vacancies: list[Vacancy]
    leaders: int


def measure(
    candidates: Candidates, counters: Any, window: float, releases: int
) -> tuple[list[str], list[Vacancy], int]:
    """Let them run for *window* seconds, then stop one leader after another."""
    candidates.ask("start")
    eventually(lambda: len(known := set(candidates.gather("know"))) == 1 and "" not in known, 120, interval=0.5)
    time.sleep(10)  # the looks of those that began together spread out
    before, begun = counters.total(), now()
    time.sleep(window)
    after, ended = counters.total(), now()
    steady = candidates.count(begun, ended) / (ended - begun)
    vacancies = []
    for silently in [False] * releases + [True]:
        time.sleep(5)
        at = candidates.stop_leader(silently=silently)
        led = eventually(lambda at=at: next_term(candidates.gather("trusts"), at), 60, interval=0.2)
        since = led if silently else at
        eventually(lambda since=since: now() > since + 1.2)
        asked = candidates.count(since, since + 1)
        vacancies.append(Vacancy("silent death" if silently else "release", led - at, asked))
    counted = f"{(after - before) / (ended - begun):.0f} {counters.unit}/s by the server's count"
    return Measured(steady, counted, vacancies, most_at_once(candidates.gather("trusts")))


def report(store: str, number: int, measured: Measured) -> None:
    """Print one store's table."""
    released = [each for each in measured.vacancies if each.kind == "release"]
    died = next(each for each in measured.vacancies if each.kind == "silent death")
    asked, times = [each.requests for each in released], [each.lasted * 1e3 for each in released]
    median, most = statistics.median, max
    allowed = f"≤ {1.5 * measured.steady + number:.0f}"
    rows = [
        ("steady", f"{measured.steady:.0f} requests/s; {measured.counted}", ""),
        ("a candidate and retry period", f"{measured.steady * RETRY_PERIOD / number:.2f} requests", "≤ 1"),
        ("in the second after a release", f"p50 {median(asked):.0f} requests, at most {most(asked)}", allowed),
        ("in the second after a takeover by expiry", f"{died.requests} requests", allowed),
        ("release → next leader", f"p50 {median(times):.0f} ms, at most {most(times):.0f} ms", ""),
        ("silent death → next leader", f"{died.lasted:.1f} s", "≤ 19.4 s"),
        ("leaders at one time, at most", str(measured.leaders), "1"),
    ]
    print(f"\n{store}: {number} candidates, {len(released)} releases\n")
    print(f"| {'':42} | {'measured':58} | {'budget':8} |\n|{'-' * 44}|{'-' * 60}|{'-' * 10}|")
    for what, value, budget in rows:
        print(f"| {what:42} | {value:58} | {budget:8} |")


@contextmanager
def store_of(kind: str) -> Iterator[tuple[Any, Any]]:
    """Start a server; yield where it is, and its counters."""
    if kind == "redis":
        with RedisServer() as redis_server:
            yield redis_server.url, RedisCounters(redis_server)
    else:
        with PostgresServer() as postgres_server:
            set_up_django(postgres_server.django)
            from django.core.management import call_command

            call_command("migrate", verbosity=0)
            yield postgres_server.django, PostgresCounters(postgres_server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", nargs="+", choices=["redis", "postgres"], default=["redis", "postgres"])
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shared", type=int, default=20, help="connections that a process shares, on PostgreSQL")
    parser.add_argument("--window", type=float, default=15, help="seconds of the steady state")
    parser.add_argument("--releases", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # no process is to stay behind
    for store in options.store:
        with store_of(store) as (where, counters):
            candidates = Candidates(store, where, options.candidates, options.processes, options.shared)
            try:
                report(store, options.candidates, measure(candidates, counters, options.window, options.releases))
            finally:
                candidates.close()


if __name__ == "__main__":
    main()
