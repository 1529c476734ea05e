"""Real servers for the tests: Redis, PostgreSQL and MariaDB, each on a free port of 127.0.0.1, in its own directory.

    with RedisServer() as server:
        client = redis.Redis.from_url(server.url)
        server.kill()       # SIGKILL: what was acknowledged is kept, as on a machine whose disk lives
        server.restart()    # on the same port
        server.pause()      # SIGSTOP: connections stay open and nothing answers
        server.resume()

Whoever starts a server stops it: `with`, a fixture, or `close()`. Should that process be killed itself, a small watcher
that holds the end of a pipe kills the server. Nothing here needs a database driver. Syncing to disk is off, writing is
not: what a server acknowledged outlives its SIGKILL, so a test that loses data has found something.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.waiting import eventually

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0


class ServerMissing(RuntimeError):
    """A server's program is not installed. Tests fail on it; they do not skip."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(
            f"The tests need {program!r}, which is neither on PATH nor where Debian puts it. "
            f"Install it (Debian: apt-get install {package}), or run `make test` as root, which does."
        )


class ServerFailed(RuntimeError):
    """A server did not start or stop; the message ends with the last lines of its log."""


def find_program(name: str, package: str, *places: str) -> str:
    """The path of program *name*: in Debian's *places* (glob patterns), the newest first, else on PATH."""
    for place in places:
        for path in sorted(Path("/").glob(place.lstrip("/")), reverse=True):
            if os.access(path / name, os.X_OK):
                return str(path / name)
    if found := shutil.which(name):
        return found
    raise ServerMissing(name, package)


def free_port() -> int:
    """A port nobody listens on.

    Below the range from which the system takes the ports of outgoing connections: a server that is down for a while
    must find its port free when it comes back.
    """
    for _ in range(200):
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ServerFailed("found no free port between 20000 and 32000")


def process_table() -> dict[int, tuple[int, str]]:
    """Every process's parent and state letter, by process id."""
    table = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name stands in brackets and may hold anything: count from the last bracket.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            table[int(entry.name)] = (int(parent), state)
    return table


def family(pid: int) -> list[int]:
    """Process *pid* and all its descendants, parents first."""
    parents = {child: parent for child, (parent, _) in process_table().items()}
    members = [pid]
    for member in members:
        members.extend(child for child, parent in parents.items() if parent == member)
    return members


def listens(pid: int, port: int) -> bool:
    """Whether process *pid* itself listens on *port* of 127.0.0.1."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "0A"}
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            held.add(str(descriptor.readlink()))
    return bool(sockets & held)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to each of *pids* that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Server(ABC):
    """A server process: how it is started, harmed and stopped. The port never changes; `restart` may empty it."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    # Whom the server runs as when we are root (some refuse root); None: as root.
    account: ClassVar[str | None] = None

    def __init__(self) -> None:
        self.port = free_port()
        self.home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "stopped"
        return f"<{type(self).__name__} {HOST}:{self.port} {state}>"

    @abstractmethod
    def prepare(self) -> None:
        """Fill the empty directory `data` with what the first start needs."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server answers in its own protocol. May raise OSError. Bounded."""

    def welcome(self) -> None:  # noqa: B027  (most have nothing to do)
        """What is to be done after the first start on an empty directory."""

    @property
    def data(self) -> Path:
        """Where the server keeps its data."""
        if self.home is None:
            raise ServerFailed(f"{self.name} was not started")
        return self.home / "data"

    @property
    def pid(self) -> int:
        """The main process."""
        if self._process is None:
            raise ServerFailed(f"{self.name} does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the main process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self) -> None:
        """Start and wait until it answers. Starting a running server does nothing."""
        if self.running:
            return
        try:
            fresh = self._make_home()
            self._spawn()
            eventually(self._ready, START_TIMEOUT, what=f"{self.name} answers", ignore=OSError)
            if fresh:
                self.welcome()
        except BaseException as error:
            log = self.log()
            self.close()
            if isinstance(error, (AssertionError, subprocess.CalledProcessError)):
                raise ServerFailed(f"{self.name} did not start: {error}\n{log}") from error
            raise

    def stop(self) -> None:
        """End it the polite way. Its data stays, and `start` finds it."""
        if self._process is None:
            return
        self.resume()
        members = family(self.pid)
        signal_all([self.pid], self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            signal_all(members, signal.SIGKILL)
        self._forget(members)

    def kill(self) -> None:
        """SIGKILL to all its processes at once. Its data stays, and `start` finds it."""
        if self._process is None:
            return
        # Halt the main process first, so that it starts no new one while we look for them.
        signal_all([self.pid], signal.SIGSTOP)
        members = family(self.pid)
        signal_all(members, signal.SIGKILL)
        self._forget(members)

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay open and nothing answers."""
        signal_all([self.pid], signal.SIGSTOP)
        self._paused = family(self.pid)
        signal_all(self._paused, signal.SIGSTOP)
        # A child that had just ended stays a zombie, for its stopped parent can't reap it.
        eventually(lambda: self._states(self._paused) <= {"T", "Z"}, what=f"{self.name} is paused")

    def resume(self) -> None:
        """SIGCONT to what `pause` stopped, children first."""
        signal_all(self._paused[::-1], signal.SIGCONT)
        self._paused = []

    def restart(self, *, empty: bool = False) -> None:
        """Stop it if it runs, and start it on the same port, with its data or (*empty*) without any."""
        if empty:
            self.kill()
            self._remove_home()
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill it and remove its directory. May be called twice."""
        self.kill()
        self._remove_home()

    def log(self, lines: int = 30) -> str:
        """The last lines that the server wrote."""
        path = self.home / "log" if self.home else None
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path and path.exists() else ""

    def run(self, *command: str) -> str:
        """Run a client or set-up program as the server's user; its standard output."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT,
            check=False,
            **self._surroundings(),
        )
        if done.returncode:
            raise ServerFailed(f"{' '.join(command)} failed: {done.stderr or done.stdout}")
        return done.stdout

    def _surroundings(self) -> dict[str, Any]:
        """As whom and where to run, in `subprocess`'s words."""
        # Two MariaDBs that share a directory for temporary files remove each other's.
        where = {"cwd": self.home, "env": {**os.environ, "TMPDIR": f"{self.home}/tmp"}}
        if os.geteuid() != 0 or self.account is None:
            return where
        user = pwd.getpwnam(self.account)
        return {**where, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def _make_home(self) -> bool:
        """Make and fill the directory unless there is one; whether it did."""
        if self.home is not None:
            return False
        # Not under pytest's tmp_path: only its owner may enter that, and a socket's path has 107 characters at most.
        self.home = Path(tempfile.mkdtemp(prefix=f"celery-leader-{self.name}-"))
        surroundings = self._surroundings()
        for path in (self.home, self.data, self.home / "tmp"):
            path.mkdir(exist_ok=True)
            if "user" in surroundings:
                os.chown(path, surroundings["user"], surroundings["group"])
        self.prepare()
        return True

    def _remove_home(self) -> None:
        if self.home is not None:
            shutil.rmtree(self.home, ignore_errors=True)
            self.home = None

    def _spawn(self) -> None:
        if self.home is None:
            raise ServerFailed(f"{self.name} has no directory")
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the test run, which then stops us
                **self._surroundings(),
            )
        self._watch(self._process.pid)

    def _watch(self, pid: int) -> None:
        """Have the server killed if this process is: the pipe's end is then read."""
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", f"read _; kill -9 {pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _unwatch(self) -> None:
        """Dismiss the watcher: before its pipe closes, and before the process id can be another's."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            if self._watcher.stdin:
                self._watcher.stdin.close()
            self._watcher = None

    def _forget(self, members: list[int]) -> None:
        """Reap the main process and wait until all *members* are gone: they hold the port or shared memory."""
        self._unwatch()
        if self._process is not None:
            self._process.wait(STOP_TIMEOUT)
            self._process = None
        self._paused = []
        eventually(lambda: self._states(members) <= {"Z"}, STOP_TIMEOUT, what=f"{self.name} is gone")

    def _ready(self) -> bool:
        if not self.running:
            raise ServerFailed(f"{self.name} ended while starting:\n{self.log()}")
        # Somebody else's server on our port would answer, too.
        return listens(self.pid, self.port) and self.answers()

    @staticmethod
    def _states(pids: list[int]) -> set[str]:
        table = process_table()
        return {table[pid][1] for pid in pids if pid in table}


class RedisServer(Server):
    """A Redis that writes every command to its append-only file before it answers."""

    name = "redis"

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def prepare(self) -> None:
        """Nothing: it starts on an empty directory."""

    def command(self) -> list[str]:
        """`appendfsync no`: the file is written before each answer; `everysec` may put it off for two seconds."""
        program = find_program("redis-server", "redis-server", "/usr/bin")
        settings = {
            "port": str(self.port),
            "bind": HOST,
            "dir": str(self.data),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",
        }
        return [program, *(word for key, value in settings.items() for word in (f"--{key}", value))]

    def answers(self) -> bool:
        """PING, which it answers with an error while it loads its data."""
        with socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16) == b"+PONG\r\n"


class DatabaseServer(Server):
    """What PostgreSQL and MariaDB have in common: databases, and how Django is told of them."""

    engine: ClassVar[str]
    user: ClassVar[str]
    database: ClassVar[str] = "leader"

    @abstractmethod
    def execute(self, sql: str, database: str = "") -> str:
        """Run a statement with the server's own client; what it printed."""

    def create_database(self, name: str) -> dict[str, Any]:
        """Create an empty database; its entry for Django's DATABASES."""
        self.execute(f"CREATE DATABASE {name}")
        return self.django_for(name)

    @property
    def django(self) -> dict[str, Any]:
        """The entry for Django's DATABASES of the database that is there from the start."""
        return self.django_for(self.database)

    def django_for(self, name: str) -> dict[str, Any]:
        """The entry for Django's DATABASES of database *name*."""
        return {
            "ENGINE": self.engine,
            "NAME": name,
            "USER": self.user,
            "PASSWORD": "",
            "HOST": HOST,
            "PORT": str(self.port),
        }

    def welcome(self) -> None:
        """Create the database that `django` names."""
        self.create_database(self.database)


class PostgresServer(DatabaseServer):
    """A PostgreSQL that trusts whoever connects, and does not wait for the disk."""

    name = "postgres"
    engine = "django.db.backends.postgresql"
    user = "postgres"
    account = "postgres"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for clients to leave

    @staticmethod
    def program(name: str) -> str:
        """A PostgreSQL program, from Debian's directory: what PATH calls `postgres` may be a wrapper."""
        return find_program(name, "postgresql", "/usr/lib/postgresql/*/bin")

    def prepare(self) -> None:
        """Make the cluster."""
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self.run(self.program("initdb"), f"--pgdata={self.data}", f"--username={self.user}", *options)

    def command(self) -> list[str]:
        """Commits stay synchronous: a commit that was acknowledged is written, if not flushed, and outlives SIGKILL."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
        }
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [self.program("postgres"), "-D", str(self.data), *words]

    def answers(self) -> bool:
        """Asked by its own pg_isready, which knows "starting up" from "accepting connections"."""
        question = [self.program("pg_isready"), "--quiet", f"--host={HOST}", f"--port={self.port}", "--timeout=1"]
        return subprocess.run(question, check=False).returncode == 0

    def execute(self, sql: str, database: str = "") -> str:
        """By psql, which prints rows without decoration."""
        address = [f"--host={HOST}", f"--port={self.port}", f"--username={self.user}"]
        options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
        return self.run(
            self.program("psql"), *address, *options, f"--dbname={database or 'postgres'}", f"--command={sql}"
        )


class MariaDBServer(DatabaseServer):
    """A MariaDB without binary log whose root needs no password, and which does not wait for the disk."""

    name = "mariadb"
    engine = "django.db.backends.mysql"
    user = "root"
    account = "mysql"

    @staticmethod
    def program(name: str) -> str:
        """A MariaDB program, from Debian's places or PATH."""
        return find_program(name, "mariadb-server", "/usr/sbin", "/usr/bin")

    def prepare(self) -> None:
        """Make the system tables."""
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        self.run(self.program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", *options)

    def command(self) -> list[str]:
        """`flush-log-at-trx-commit=2`: each commit is written before its answer, never flushed; it outlives SIGKILL."""
        settings = {
            "datadir": str(self.data),
            "bind-address": HOST,
            "port": str(self.port),
            "socket": f"{self.home}/socket",
            "pid-file": f"{self.home}/pid",
            "innodb-flush-log-at-trx-commit": "2",
            "innodb-fast-shutdown": "2",
            "innodb-buffer-pool-size": "32M",
            "innodb-log-file-size": "16M",
            "max-connections": "200",
            "max-connect-errors": "1000000",  # each look at its greeting counts as one
            "character-set-server": "utf8mb4",
        }
        words = [f"--{key}={value}" for key, value in settings.items()]
        return [self.program("mariadbd"), "--no-defaults", *words, "--skip-log-bin", "--skip-name-resolve"]

    def answers(self) -> bool:
        """It greets who connects: protocol version 10, or 255 for an error."""
        with socket.create_connection((HOST, self.port), timeout=1) as connection:
            return connection.recv(5)[4:5] == b"\x0a"

    def execute(self, sql: str, database: str = "") -> str:
        """By the client `mariadb`, which prints rows without decoration."""
        address = [f"--host={HOST}", f"--port={self.port}", f"--user={self.user}", "--protocol=tcp"]
        options = ["--batch", "--skip-column-names", f"--execute={sql}"]
        return self.run(self.program("mariadb"), "--no-defaults", *address, *options, *([database] if database else []))

    def django_for(self, name: str) -> dict[str, Any]:
        """As for any database; text in four-byte UTF-8."""
        return {**super().django_for(name), "OPTIONS": {"charset": "utf8mb4"}}
