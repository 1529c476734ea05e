"""Three processes of a fleet, the faults that harm them at random, and what each fault excuses."""

from __future__ import annotations

import math
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.fleet import LEASE, RETRY, Fleet
from tests.chaos.messages import Account, Every, Fault, Minutely, read_messages
from tests.servers import PostgresServer, RedisServer

#: The longest until another leads, after a leader is gone without a word, or after the store is back.
TAKEOVER = LEASE + RETRY * 2.2
#: The longest until a worker has its broker back: Celery tries after 2, 4, 6 … s.
RECONNECT = 4.0
NAMES = ("a", "b", "c")
#: The periodic entries. Their messages go to a queue that nobody consumes.
SCHEDULE: dict[str, Every | Minutely] = {"second": Every(1.0), "seven": Every(7.0), "minute": Minutely()}
QUEUE = "ticks"


@dataclass
class Members:
    """The three processes of a fleet: beats of their own, or workers with a beat inside."""

    fleet: Fleet
    random: random.Random
    beats: bool = False
    #: One process each. Without -Q a worker of Celery 5.5 that has sent to a queue consumes it, once it reconnects.
    options: tuple[str, ...] = ("-P", "solo", "-Q", "celery", "--without-gossip", "--without-mingle")
    faults: list[Fault] = field(default_factory=list)
    deploys: list[tuple[float, float]] = field(default_factory=list)

    def begin(self) -> None:
        """Start all, and wait until one ticks."""
        self.fleet.conf["beat_schedule"] = {name: entry(name, when) for name, when in SCHEDULE.items()}
        for name in NAMES:
            self.start(name)
        self.fleet.await_ticking_leader("sent")

    def end(self, since: float, until: float) -> Account:
        """Stop all, and return an account of the broker's messages. All was well at *since* and *until*."""
        self.fleet.stop_all()
        messages = read_messages(self.fleet.broker.url, QUEUE)
        (self.fleet.directory / "messages.txt").write_text("\n".join(map(str, messages)))  # for the reader of a failure
        schedule = {**SCHEDULE, "minute": Minutely(self.fleet.utc_offset), **self.deployed()}
        return Account(messages, schedule, self.faults, since, until)

    def report(self, account: Account) -> None:
        """Print the figures of the run, and its faults."""
        messages = Counter(message.entry.partition("-")[0] for message in account.messages)
        print(  # noqa: T201  # the figures belong into CI's log
            f"chaos: {account.until - account.since:.0f} s, terms={len(self.fleet.evidence().terms())} "
            f"messages={dict(messages)} resent={account.resent()} "
            f"faults={dict(Counter(fault.kind for fault in self.faults))}"
        )
        for fault in self.faults:
            begun, over = fault.begun - account.since, fault.over - account.since
            print(f"  {begun:5.1f} s: {fault.kind}, over at {over:.1f} s")  # noqa: T201

    def start(self, name: str) -> None:
        """Start one, and wait until it takes part."""
        if self.beats:
            self.fleet.start_beat(name)
            return
        self.fleet.start(name, *self.options)
        self.fleet.await_ready(name)

    def leader(self) -> str:
        """Return the name of the leader."""
        return self.fleet.await_leader()

    def follower(self) -> str:
        """Return the name of a process that does not lead."""
        leader = self.leader()
        return self.random.choice([name for name in NAMES if name != leader])

    def some_leases(self, most: float) -> float:
        """Return a time from one second to *most* leases."""
        return self.random.uniform(1, most * LEASE)

    def harm(self, kind: str) -> None:
        """Cause the fault *kind*, and wait until all is well: three processes run, and one ticks."""
        KINDS[kind](self, kind)
        self.await_recovery()
        assert sorted(self.fleet.alive()) == sorted(NAMES), f"after {kind} only {self.fleet.alive()} live"

    def await_recovery(self) -> None:
        """Wait until somebody leads and has ticked since now."""
        self.fleet.await_ticking_leader("sent", since=time.clock_gettime(time.CLOCK_BOOTTIME))

    def note(self, kind: str, begun: float, over: float, *, resends: bool = False, loses_answers: bool = False) -> None:
        """Write down a fault."""
        self.faults.append(Fault(kind, begun, over, resends, loses_answers))

    # -- processes -------------------------------------------------------------------------------------------------

    def kill(self, kind: str, name: str, takeover: float) -> None:
        """SIGKILL; it is started again at once."""
        begun = time.time()
        self.fleet.signal_all(name, signal.SIGKILL)
        self.fleet.await_end(name)
        self.note(kind, begun, begun + takeover, resends=takeover > 0)
        self.start(name)

    def pause(self, kind: str, name: str, takeover: float) -> None:
        """SIGSTOP for three leases. A follower's excuses nothing, a leader's no more than its death would."""
        begun = time.time()
        self.fleet.signal_all(name, signal.SIGSTOP)
        time.sleep(3 * LEASE)
        self.fleet.signal_all(name, signal.SIGCONT)
        # A leader that wakes while it sends continues, and its successor has sent the same.
        self.note(kind, begun, begun + takeover, resends=takeover > 0)

    def terminate(self, kind: str, name: str) -> None:
        """SIGTERM: it hands over and leaves nothing open, so only the slowness of two cores is excused."""
        begun = time.time()
        self.fleet.signal(name, signal.SIGTERM)
        status = self.fleet.await_end(name)
        assert status == 0, f"{name} ended with {status}"
        self.note(kind, begun, begun)
        self.start(name)

    def deploy(self, kind: str) -> None:
        """Replace all, one by one, by a version in whose schedule one entry has another name."""
        begun, number = time.time(), len(self.deploys)
        entries = self.fleet.conf["beat_schedule"]
        entries.pop(f"deploy-{number - 1}", None)
        entries[f"deploy-{number}"] = entry(f"deploy-{number}", Every(2.0))
        for name in self.random.sample(NAMES, len(NAMES)):
            self.terminate(kind, name)
        self.deploys.append((begun, time.time()))

    def deployed(self) -> dict[str, Every]:
        """Return the entries that came with deployments, and when they must have been sent: between two of them."""
        ends = [*(begun for begun, _ in self.deploys[1:]), math.inf]
        return {f"deploy-{number}": Every(2.0, done, ends[number]) for number, (_, done) in enumerate(self.deploys)}

    # -- servers -----------------------------------------------------------------------------------------------------

    def store_away(self, kind: str, *, hung: bool, seconds: float) -> None:
        """The store stops, or hangs, for a while."""
        store, begun = self.fleet.server, time.time()
        assert store
        store.pause() if hung else store.stop()
        time.sleep(seconds)
        store.resume() if hung else store.start()
        self.note(kind, begun, time.time() + TAKEOVER, resends=True)

    def store_emptied(self, kind: str) -> None:
        """The store has lost all its data, and the leader that it had still leads."""
        store, begun = self.fleet.server, time.time()
        if isinstance(store, RedisServer):
            store.restart(empty=True)
        elif isinstance(store, PostgresServer):  # that the tables are there is for the migrations to see to
            tables = "SELECT string_agg(tablename, ',') FROM pg_tables WHERE tablename LIKE 'celery_leader_%'"
            store.execute(f"TRUNCATE {store.execute(tables, store.database).strip()}", store.database)
        self.note(kind, begun, time.time() + TAKEOVER, resends=True)

    def emptied_and_killed(self, kind: str) -> None:
        """The leader restores the ledger from memory and dies; the next leader depends on that."""
        self.store_emptied(kind)
        self.await_recovery()
        self.kill(kind, self.leader(), TAKEOVER)

    def broker_away(self, kind: str, *, hung: bool, seconds: float) -> None:
        """The broker is killed, or hangs, and is back with all that it acknowledged."""
        broker, begun = self.fleet.broker, time.time()
        broker.pause() if hung else broker.kill()
        time.sleep(seconds)
        broker.resume() if hung else broker.start()
        self.note(kind, begun, time.time() + RECONNECT, resends=True, loses_answers=True)

    def killed_without_broker(self, kind: str) -> None:
        """The leader dies while it waits for the broker: the next leader must send its unsent claims."""
        leader, begun = self.leader(), time.time()
        self.fleet.broker.kill()
        time.sleep(1.5)  # something falls due every second
        self.fleet.signal_all(leader, signal.SIGKILL)
        self.fleet.await_end(leader)
        self.fleet.broker.start()
        self.note(kind, begun, time.time() + max(TAKEOVER, RECONNECT), resends=True, loses_answers=True)
        self.start(leader)


def entry(name: str, when: Every | Minutely) -> dict[str, object]:
    """Return the periodic entry *name* as the project's settings have it."""
    schedule = when.period if isinstance(when, Every) else "minutely"
    return {"task": "chaos_project.tick", "schedule": schedule, "args": [name], "options": {"queue": QUEUE}}


KINDS: dict[str, Callable[[Members, str], None]] = {
    "kill leader": lambda members, kind: members.kill(kind, members.leader(), TAKEOVER),
    "terminate leader": lambda members, kind: members.terminate(kind, members.leader()),
    "pause leader": lambda members, kind: members.pause(kind, members.leader(), TAKEOVER),
    "kill follower": lambda members, kind: members.kill(kind, members.follower(), 0.0),
    "pause follower": lambda members, kind: members.pause(kind, members.follower(), 0.0),
    "store emptied": Members.store_emptied,
    "store emptied, leader killed": Members.emptied_and_killed,
    "store restarted": lambda members, kind: members.store_away(kind, hung=False, seconds=0.0),
    "store stopped": lambda members, kind: members.store_away(kind, hung=False, seconds=2 * LEASE),
    "store hung": lambda members, kind: members.store_away(kind, hung=True, seconds=members.some_leases(3)),
    "broker restarted": lambda members, kind: members.broker_away(kind, hung=False, seconds=0.0),
    "kill leader without broker": Members.killed_without_broker,
    "broker stopped": lambda members, kind: members.broker_away(kind, hung=False, seconds=2 * LEASE),
    "broker hung": lambda members, kind: members.broker_away(kind, hung=True, seconds=members.some_leases(2)),
    "deploy": Members.deploy,
}
