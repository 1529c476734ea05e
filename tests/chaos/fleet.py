"""Real workers on real stores and a real broker, to be harmed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery

from tests.chaos.evidence import Evidence, GrowingLog
from tests.chaos.messages import LastClaim
from tests.servers import RabbitServer, RedisServer, Server
from tests.waiting import eventually

if TYPE_CHECKING:
    from typing_extensions import Self

PROJECT = Path(__file__).parent / "project"
ROOT = Path(__file__).parents[2]

#: Durations of the chaos elections, in seconds: short, and long enough for two busy cores.
LEASE, DEADLINE, RETRY = 3.0, 2.0, 0.4
#: What a process logs when it becomes a candidate.
CANDIDATE = "takes part in the elections"
#: The longest that nobody leads after a leader is gone without a word.
LONGEST_TAKEOVER = LEASE + RETRY * 2.2 + 1.5
#: How long until a message may be delivered again whose worker was killed, in seconds.
VISIBILITY = 5

PERIODS = {"second": 1.0, "seven": 7.0}


@dataclass
class Fleet:
    """Workers, the store of their election, and what they wrote down."""

    directory: Path
    broker: RedisServer | RabbitServer
    store: str
    database: dict[str, Any] | None = None
    conf: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    dead_pids: set[int] = field(default_factory=set)
    election: str = "default"
    utc_offset: float = 0.0
    visibility: int = VISIBILITY
    sent: int = 0
    sending: threading.Lock = field(default_factory=threading.Lock)
    server: Server | None = None
    _logged_before: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write the settings, and make the tables of a database."""
        self._growing = GrowingLog(self.log)
        self.app = Celery("chaos", broker=self.broker.url, set_as_current=False)
        if self.database:
            self._run(sys.executable, "-m", "django", "migrate", "-v0")

    def __enter__(self) -> Self:
        """Return the fleet, whose processes end with the block."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End all."""
        self.close()

    @property
    def log(self) -> Path:
        """Where the workers write."""
        return self.directory / "events.jsonl"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the workers' processes."""
        conf = {
            "broker_url": self.broker.url,
            "broker_transport_options": {"visibility_timeout": self.visibility},
            "broker_connection_retry_on_startup": True,
            "broker_connection_max_retries": None,
            "worker_prefetch_multiplier": 1,
            "worker_cancel_long_running_tasks_on_connection_loss": False,
            "task_ignore_result": True,
            "leader_backend": self.store,
            "leader_lease_duration": LEASE,
            "leader_renew_deadline": DEADLINE,
            "leader_retry_period": RETRY,
            "leader_beat": True,
            "beat_schedule": {
                name: {"task": "chaos_project.tick", "schedule": period, "args": [name]}
                for name, period in PERIODS.items()
            },
            **self.conf,
        }
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PROJECT), str(ROOT)]),
            "PYTHONWARNINGS": "ignore",
            "CHAOS_LOG": str(self.log),
            "CHAOS_CONF": json.dumps(conf),
            "CHAOS_DATABASE": json.dumps(self.database),
            "CHAOS_UTC_OFFSET": str(self.utc_offset),
            "DJANGO_SETTINGS_MODULE": "chaos_settings" if self.database else "",
        }

    # -- workers -------------------------------------------------------------------------------------------------

    def start(self, name: str, *options: str) -> None:
        """Start one worker, in a session of its own."""
        self._spawn(name, "worker", "-n", f"{name}@chaos", *(options or ("-c", "2")))

    def start_beat(self, name: str, *options: str, scheduler: str = "leader") -> None:
        """Start a beat of its own, and wait until it can take over."""
        self._spawn(name, "beat", "-S", scheduler, *options)
        self.await_logged(name, CANDIDATE if scheduler == "leader" else "beat: Starting...")

    def _spawn(self, name: str, command: str, *options: str) -> None:
        self._logged_before[name] = len(self.log_of(name))
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "chaos_project", command, "-l", "INFO", *options],
                env=self.environment, cwd=self.directory, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def log_of(self, name: str) -> str:
        """Return the log of a worker or beat, to which all processes of its name have written."""
        log = self.directory / f"{name}.log"
        return log.read_text() if log.exists() else ""

    def times_logged(self, text: str, *names: str) -> int:
        """Return how often *text* is in the logs of workers and beats."""
        return sum(self.log_of(name).count(text) for name in names)

    def await_logged(self, name: str, text: str, timeout: float = 40) -> None:
        """Wait until a worker or beat has logged *text* since it was started last."""
        since = self._logged_before[name]
        eventually(lambda: text in self.log_of(name)[since:], timeout, what=f"{text!r} in {name}.log")

    def await_ready(self, *names: str) -> None:
        """Wait until workers consume."""
        for name in names:
            self.await_logged(name, f"{name}@chaos ready")

    def start_all(self, *names: str) -> None:
        """Start workers and wait until one of them leads."""
        for name in names:
            self.start(name)
        self.await_leader()

    def signal(self, name: str, number: int) -> float:
        """Send a signal to the main process of a worker; return when, by the boot-time clock."""
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.kill(self.processes[name].pid, number)
        return at

    def signal_all(self, name: str, number: int) -> float:
        """Send a signal to all processes of a worker; return when, by the boot-time clock."""
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.killpg(self.processes[name].pid, number)
        return at

    def await_end(self, name: str, timeout: float = 40) -> int:
        """Wait for a worker to end; return its exit status."""
        return self.processes.pop(name).wait(timeout)

    def alive(self) -> list[str]:
        """Return the workers that run."""
        return [name for name, process in self.processes.items() if process.poll() is None]

    def children(self, name: str) -> set[int]:
        """Return the pids of a worker, its own first."""
        parent = self.processes[name].pid
        found = {parent}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.add(int(path.parent.name))
        return found

    def close(self) -> None:
        """End all workers, whatever state they are in."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        self.processes.clear()

    def stop_all(self) -> None:
        """Stop all workers warmly."""
        for name in list(self.processes):
            self.signal(name, signal.SIGTERM)
        for name in list(self.processes):
            self.await_end(name)

    def finish(self) -> dict[str, int]:
        """Stop the beats, and let every message that is still anywhere run; return how many ticks were claimed.

        They run on workers without a beat. Redis' transport looks for messages of dead workers when a worker starts,
        and then for long no more.
        """
        self.stop_all()
        claimed = self.claimed()
        self.conf["leader_beat"] = False

        def is_complete() -> bool:
            evidence = self.evidence()
            wrong = evidence.guarded_wrong(self.sent, self.dead_pids) or evidence.lost(claimed, PERIODS, math.inf)
            return not wrong

        for attempt in range(3):
            self.start_all(f"last{attempt}")
            with suppress(AssertionError):  # the checks report what is missing
                eventually(is_complete, timeout=VISIBILITY + 2, interval=0.2)
            self.stop_all()
            if is_complete():
                break
        return claimed

    # -- the election ----------------------------------------------------------------------------------------------

    def leader(self) -> str | None:
        """Return the name of the worker or beat that trusts itself to lead at this moment."""
        evidence, now = self.evidence(), time.clock_gettime(time.CLOCK_BOOTTIME)
        terms = evidence.terms()
        if not terms or terms[-1][1] <= now:
            return None
        identity = next(line["identity"] for line in evidence.of("trust") if line["token"] == terms[-1][2])
        pid = int(str(identity).split("/")[1])
        return next((name for name, process in self.processes.items() if process.pid == pid), None)

    def await_leader(self, other_than: str = "", timeout: float = 40) -> str:
        """Wait until a worker leads; return its name."""

        def found() -> str | None:
            leader = self.leader()
            return leader if leader and leader != other_than and leader in self.alive() else None

        leader = eventually(found, timeout=timeout, what=f"a leader other than {other_than!r}")
        assert leader
        return leader

    def await_ticking_leader(self, what: str = "tick", since: float = 0.0) -> str:
        """Wait until a worker leads whose ticks were executed (or, by *what*, "sent"); return its name.

        Args:
            what: The kind of line that tells of a tick.
            since: Only ticks after this moment count, by the boot-time clock.
        """

        def found() -> str | None:
            leader, evidence = self.leader(), self.evidence()
            token = evidence.terms()[-1][2] if evidence.terms() else 0
            ticks = [line for line in evidence.of(what) if line["token"] == str(token) and line["at"] > since]
            return leader if len(ticks) >= 2 and leader in self.alive() else None

        leader = eventually(found, timeout=40, interval=0.1, what="a leader that ticks")
        assert leader
        return leader

    def await_term(self, number: int, timeout: float = 40) -> float:
        """Wait until there were more than *number* terms; return when the first of the new ones began."""
        eventually(lambda: len(self.evidence().terms()) > number, timeout=timeout, what="a new term")
        return self.evidence().terms()[number][0]

    # -- work ------------------------------------------------------------------------------------------------------

    def send_guarded(self, count: int, seconds: float = 0.0) -> None:
        """Send guarded tasks."""
        for _ in range(count):
            with self.sending:
                self.app.send_task(
                    "chaos_project.guarded", (self.sent, seconds), queue="celery-leader.default", retry=True
                )
                self.sent += 1

    @contextmanager
    def nothing_on_the_way(self) -> Iterator[None]:
        """Hold back new guarded tasks; those that were sent have begun, and may be running.

        kombu takes a message out of Redis (BRPOP) before it notes that it has it: what is between the two when a worker
        is killed is lost by the broker, whoever leads. That is not what is tested here.
        """
        with self.sending:
            eventually(lambda: not self._not_begun(), timeout=30, what=f"the begin of tasks {self._not_begun()}")
            yield

    def _not_begun(self) -> list[int]:
        begun = {line["number"] for line in self.evidence().of("guarded-start")}
        return [number for number in range(self.sent) if number not in begun]

    def evidence(self) -> Evidence:
        """Return all that the processes wrote down so far."""
        return Evidence(self._growing.lines(), self.election)

    def report(self, takeovers: Iterable[float] = ()) -> None:
        """Print the figures of the run."""
        evidence = self.evidence()
        ticks = sum(len(evidence.ticks(entry)) for entry in PERIODS)
        print(  # noqa: T201  # the figures belong into CI's log
            f"\nchaos: terms={len(evidence.terms())} ticks={ticks} twice={len(evidence.twice())} "
            f"repeated={evidence.repeated()} guarded={self.sent} overlaps={len(evidence.overlaps())} "
            f"takeovers={' '.join(f'{seconds:.2f}' for seconds in sorted(takeovers))} s"
        )

    def claimed(self) -> dict[str, int]:
        """Return how many ticks of each entry the ledger counts."""
        return {name: last.count for name, last in self.last_claims().items()}

    def last_claims(self) -> dict[str, LastClaim]:
        """Return the ledger's last claim of each entry. Earlier terms can no longer change them."""
        script = (
            "import json, chaos_project as p\n"
            "from celery_leader.settings import LeaderSettings\n"
            "from celery_leader.leadership.campaign import backend_of\n"
            f"ledger = backend_of(LeaderSettings.from_app(p.app), p.app.main).ledger({self.election!r})\n"
            "claims = ledger.open(2**53 - 1)\n"
            "print(json.dumps({n: [claim.run_count, claim.sent, claim.task_id] for n, claim in claims.items()}))\n"
        )
        last = json.loads(self._run(sys.executable, "-c", script).splitlines()[-1])
        return {name: LastClaim(*values) for name, values in last.items()}

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.directory, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Stream:
    """Sends guarded tasks all the while, on a thread."""

    def __init__(self, fleet: Fleet, each: float = 0.5) -> None:
        """Send one task each *each* seconds; some take a while."""
        self._fleet = fleet
        self._each = each
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        """Begin."""
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        """End."""
        self._stopping.set()
        self._thread.join(20)

    def _run(self) -> None:
        while not self._stopping.wait(self._each):
            self._fleet.send_guarded(1, 0.3 if self._fleet.sent % 3 == 0 else 0.0)
