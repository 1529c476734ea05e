"""How long a hand-over takes: the leading worker gets SIGTERM, another leads and sends its first tick.

Run it with ``python -m benchmarks.handover [--store redis postgres] [--count 40] [--workers 3]``. It starts the stores,
a broker and real prefork workers with the default durations (15, 10, 2), and an embedded beat whose entry is due every
40 ms. Each hand-over stops the leader at a random moment and starts another worker in its place. Printed in
milliseconds, with what no hand-over can undercut: a round trip to the store, and the way of a message between two of
its clients.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

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
    "beat_schedule": {
        "tick": {"task": "chaos_project.tick", "schedule": PERIOD, "args": ["tick"], "options": {"queue": "nobody"}}
    },
}
BUDGETS = {"release → trust": (50, 250), "SIGTERM → first tick": (100, 300)}


def hand_overs(fleet: Fleet, count: int, workers: int) -> Iterator[dict[str, float]]:
    """Stop one leader after another; yield what each hand-over took, in milliseconds."""
    names = (f"w{number}" for number in range(workers + count))
    for _ in range(workers):
        fleet.start(next(names), "-c", "1")
    for _ in range(count):
        fleet.await_ready(*fleet.processes)
        leader, measured = hand_over(fleet)
        yield measured
        fleet.await_end(leader)
        fleet.start(next(names), "-c", "1")


def hand_over(fleet: Fleet) -> tuple[str, dict[str, float]]:
    """Stop the leader once it sends, at any moment; return its name and what the hand-over took."""
    leader = fleet.await_ticking_leader("sent")
    time.sleep(random.uniform(0.3, 1.3))  # the others have looked since they are ready
    terms = len(fleet.evidence().terms())
    stopped = fleet.signal(leader, signal.SIGTERM)
    begun = fleet.await_term(terms)
    _, ended, _ = fleet.evidence().terms()[terms - 1]
    _, _, token = fleet.evidence().terms()[terms]
    sent = eventually(lambda: first_sent(fleet, token), 30)
    moments = {
        "SIGTERM → release": (stopped, ended),
        "release → trust": (ended, begun),
        "SIGTERM → trust": (stopped, begun),
        "SIGTERM → first tick": (stopped, sent),
    }
    return leader, {what: (end - begin) * 1e3 for what, (begin, end) in moments.items()}


def first_sent(fleet: Fleet, token: int) -> float | None:
    """Return when the term named by *token* sent its first tick."""
    return next((line["at"] for line in fleet.evidence().of("sent") if line["token"] == str(token)), None)


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
def fleet_on(store: str) -> Iterator[tuple[Fleet, dict[str, float]]]:
    """Start the servers and yield a fleet on them, and the limits."""
    with ExitStack() as stack:
        directory, broker = Path(stack.enter_context(TemporaryDirectory())), stack.enter_context(RedisServer())
        if store == "redis":
            server = stack.enter_context(RedisServer())
            limits, fleet = redis_limits(server), Fleet(directory, broker, server.url, conf=CONF)
        else:
            server = stack.enter_context(PostgresServer())
            limits = postgres_limits(server)
            fleet = Fleet(directory, broker, "django-db://default", server.django, conf=CONF)
        yield stack.enter_context(fleet), limits


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
        with fleet_on(store) as (fleet, limits):
            measured = []
            try:
                for figures in hand_overs(fleet, options.count, options.workers):
                    measured.append(figures)  # noqa: PERF402  # an interruption keeps what there is
            finally:
                if measured:
                    report(store, measured, limits)


if __name__ == "__main__":
    main()
