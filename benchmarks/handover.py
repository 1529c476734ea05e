"""How long a hand-over takes: the leading worker gets SIGTERM, another leads and sends its first tick.

Run it with ``python -m benchmarks.handover [--store redis postgres] [--count 40] [--workers 3]``. It starts the stores,
a broker and real prefork workers with the default durations (15, 10, 2), and an embedded beat whose entry is due every
40 ms. Each hand-over stops the leader at a random moment and starts another worker in its place. Printed in
milliseconds, with what no hand-over can undercut: a round trip to the store, and the way of a message between two of
its clients.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.chaos.fleet import Fleet
from tests.servers import PostgresServer, RedisServer
from tests.waiting import eventually

PERIOD = 0.04
CONF = {
    "leader_lease_duration": 15,
    "leader_renew_deadline": 10,
    "leader_retry_period": 2,
    "beat_schedule": {"tick": {"task": "tick", "schedule": PERIOD, "options": {"queue": "nobody"}}},
}
BUDGETS = {"release → trust": (50, 250), "SIGTERM → first tick": (100, 300)}


class Crew(Fleet):
    """Workers that note each trust and each tick sent."""

    seen: list[dict[str, Any]]
    offset = 0

    @property
    def environment(self) -> dict[str, str]:
        inherited = super().environment
        return {**inherited, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), inherited["PYTHONPATH"]])}

    def _spawn(self, name: str, command: str, *options: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "handover_project", command, "-l", "INFO", *options],
                env=self.environment, cwd=self.directory, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def lines(self) -> list[dict[str, Any]]:
        """Return all that was noted so far; only what is new is read."""
        if not self.offset:
            self.seen = []
        with self.log.open("rb") as file:
            file.seek(self.offset)
            whole, _, _ = file.read().rpartition(b"\n")
        if whole:
            self.offset += len(whole) + 1
            self.seen += [json.loads(line) for line in whole.splitlines()]
        return self.seen

    def is_ready(self, name: str) -> bool:
        return " ready." in (self.directory / f"{name}.log").read_text()

    def trust(self) -> dict[str, Any] | None:
        """Return the last trust that was noted, None when it has ended."""
        last = next((line for line in reversed(self.lines()) if line["what"] in {"trust", "trust-end"}), None)
        return last if last and last["what"] == "trust" else None

    def first(self, what: str, after: float, **details: Any) -> dict[str, Any] | None:
        """Return the first line of *what* that was written after a moment."""
        for line in self.lines():
            if line["what"] == what and line["at"] > after and details.items() <= line.items():
                return line
        return None


def hand_overs(crew: Crew, count: int, workers: int) -> Iterator[dict[str, float]]:
    """Stop one leader after another; yield what each hand-over took, in milliseconds."""
    names = (f"w{number}" for number in range(workers + count))
    for _ in range(workers):
        crew.start(next(names), "-c", "1")
    for _ in range(count):
        eventually(lambda: all(crew.is_ready(name) for name in crew.processes), 60, what="all workers are ready")
        leader, measured = hand_over(crew)
        yield measured
        crew.await_end(leader)
        crew.start(next(names), "-c", "1")


def hand_over(crew: Crew) -> tuple[str, dict[str, float]]:
    """Stop the leader once it sends, at any moment; return its name and what the hand-over took."""
    trust = eventually(crew.trust, 60, what="a leader")
    leader = next(name for name, process in crew.processes.items() if process.pid == trust["pid"])
    eventually(lambda: crew.first("sent", 0, token=str(trust["token"])), 60)
    time.sleep(random.uniform(0.3, 1.3))  # the others have looked since they are ready
    stopped = crew.signal(leader, signal.SIGTERM)
    ended = eventually(lambda: crew.first("trust-end", stopped, pid=trust["pid"]), 30)
    begun = eventually(lambda: crew.first("trust", ended["at"]), 30)
    sent = eventually(lambda: crew.first("sent", 0, token=str(begun["token"])), 30)
    moments = {
        "SIGTERM → release": (stopped, ended["at"]),
        "release → trust": (ended["at"], begun["at"]),
        "SIGTERM → trust": (stopped, begun["at"]),
        "SIGTERM → first tick": (stopped, sent["at"]),
    }
    return leader, {what: (end - begin) * 1e3 for what, (begin, end) in moments.items()}


# -- the limit -------------------------------------------------------------------------------------------------------


def median(action: Callable[[], object], count: int = 300) -> float:
    """Return the median of an action's durations, in milliseconds."""
    durations = []
    for _ in range(count):
        begun = time.perf_counter()
        action()
        durations.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(durations)


def redis_limits(server: RedisServer) -> dict[str, float]:
    with redis.Redis.from_url(server.url) as client, client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe("limit")
        while not client.pubsub_numsub("limit")[0][1] or subscription.get_message(timeout=0.1):
            pass

        def publish() -> None:
            client.publish("limit", "x")
            while not subscription.get_message(timeout=1):
                pass

        return {"store: round trip": median(client.ping), "store: publish and hear": median(publish)}


def postgres_limits(server: PostgresServer) -> dict[str, float]:
    address = f"host=127.0.0.1 port={server.port} user={server.user} dbname={server.database}"
    with (
        psycopg.connect(address, autocommit=True) as client,
        psycopg.connect(address, autocommit=True) as listener,
    ):
        listener.execute("LISTEN hints")

        def notify() -> None:
            client.execute("NOTIFY hints")
            next(listener.notifies(timeout=1, stop_after=1))

        return {
            "store: round trip": median(lambda: client.execute("SELECT 1")),
            "store: publish and hear": median(notify),
        }


# -- stores ------------------------------------------------------------------------------------------------------------


@contextmanager
def crew_on(store: str) -> Iterator[tuple[Crew, dict[str, float]]]:
    """Start the servers and yield a crew on them, and the limits."""
    with tempfile.TemporaryDirectory() as directory, RedisServer() as broker:
        if store == "redis":
            with RedisServer() as server:
                crew = Crew(Path(directory), broker, server.url, conf=CONF)
                yield from _closing(crew, redis_limits(server))
        else:
            with PostgresServer() as server:
                crew = Crew(Path(directory), broker, "django-db://default", server.django, conf=CONF)
                yield from _closing(crew, postgres_limits(server))


def _closing(crew: Crew, limits: dict[str, float]) -> Iterator[tuple[Crew, dict[str, float]]]:
    try:
        yield crew, limits
    finally:
        crew.close()


def report(store: str, measured: list[dict[str, float]], limits: dict[str, float]) -> None:
    """Print one store's table."""
    print(f"\n{store}: {len(measured)} hand-overs, milliseconds\n")
    print(f"| {'':24} | {'p50':>7} | {'p99':>7} | {'max':>7} | {'budget p50, p99':>15} |")
    print(f"|{'-' * 26}|{'-' * 8}:|{'-' * 8}:|{'-' * 8}:|{'-' * 16}:|")
    for what in measured[0]:
        values = sorted(row[what] for row in measured)
        p99 = values[min(len(values) - 1, round(len(values) * 0.99) - 1)]
        budget = "{}, {}".format(*BUDGETS[what]) if what in BUDGETS else ""
        print(f"| {what:24} | {statistics.median(values):7.1f} | {p99:7.1f} | {values[-1]:7.1f} | {budget:>15} |")
    for what, value in limits.items():
        print(f"| {what:24} | {value:7.2f} | {'':7} | {'':7} | {'':15} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", nargs="+", choices=["redis", "postgres"], default=["redis", "postgres"])
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # no worker is to stay behind
    for store in options.store:
        with crew_on(store) as (crew, limits):
            measured = []
            try:
                for figures in hand_overs(crew, options.count, options.workers):
                    measured.append(figures)  # noqa: PERF402  # an interruption keeps what there is
            finally:
                if measured:
                    report(store, measured, limits)


if __name__ == "__main__":
    main()
