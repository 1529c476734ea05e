"""What all servers have in common: how they are started, harmed and stopped."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.servers.processes import (
    HOST,
    ServerFailed,
    family,
    find_library,
    free_port,
    listens,
    process_table,
    signal_all,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    from typing_extensions import Self

START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0


class Server(ABC):
    """A server process: how it is started, harmed and stopped. The port never changes; `restart` may empty it."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    # Whom the server runs as when we are root (some refuse root); None: as root.
    account: ClassVar[str | None] = None

    def __init__(self, *, stepped_clock: bool = False) -> None:
        self.port = free_port()
        self._stepped_clock = stepped_clock
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
        where = {"cwd": self.home, "env": {**os.environ, "TMPDIR": f"{self.home}/tmp", **self._clock()}}
        if os.geteuid() != 0 or self.account is None:
            return where
        user = pwd.getpwnam(self.account)
        return {**where, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def step_clock(self, seconds: float) -> None:
        """Set the server's wall clock *seconds* ahead of the machine's, or back. Only with `stepped_clock`."""
        if not self._stepped_clock or self.home is None:
            raise ServerFailed(f"{self.name} was not started with a clock that can be stepped")
        # In one step: the server may read it at any moment.
        fresh = self.home / "clock.new"
        fresh.write_text(f"{seconds:+g}\n")
        fresh.chmod(0o644)
        fresh.rename(self.home / "clock")

    def _clock(self) -> dict[str, str]:
        """The environment in which a program reads its wall clock from a file."""
        if not self._stepped_clock:
            return {}
        return {
            "LD_PRELOAD": find_library("libfaketime.so.1", "libfaketime", "/usr/lib/*/faketime"),
            "FAKETIME_TIMESTAMP_FILE": f"{self.home}/clock",
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

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
        if self._stepped_clock:
            self.step_clock(0)
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
