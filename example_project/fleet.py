"""The example's workers, as processes: starts, watches, kills and stops them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
STOP_TIMEOUT = 15.0  # seconds


class Fleet:
    """Workers with one data folder, which no other fleet can use as long as any of them lives.

    Use it in a ``with`` statement: no worker outlives the statement, whatever happens inside.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = -1

    def __enter__(self) -> Fleet:  # noqa: PYI034  # Self came with Python 3.11
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        self.data.mkdir(parents=True, exist_ok=True)
        # The workers inherit the lock, so the next fleet can't empty the folder while a forgotten worker uses it.
        self._lock = os.open(self.data / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"The example is running already: a process has {self.data / 'lock'} open. End it first.")
        for path in self.data.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with _undisturbed():
            self.stop(*self.alive())
            os.close(self._lock)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of every process of the example."""
        return {**os.environ, "EXAMPLE_DATA": str(self.data), "DJANGO_SETTINGS_MODULE": "proj.settings"}

    def manage(self, *command: str) -> None:
        """Run a command of Django's ``manage.py``, and wait until it ends."""
        subprocess.run([sys.executable, "manage.py", *command], cwd=HERE, env=self.environment, check=True)

    def start(self, *names: str) -> None:
        """Start workers. Each one's output goes to its own file."""
        for name in names:
            celery = [sys.executable, "-m", "celery", "-A", "proj", "worker", "-l", "INFO", "-n", f"{name}@example"]
            with (self.data / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    celery, cwd=HERE, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, pass_fds=[self._lock],
                )  # fmt: skip

    def alive(self) -> list[str]:
        """Return the names of the workers that run."""
        return [name for name, process in self.processes.items() if process.poll() is None]

    def kill(self, name: str) -> float:
        """Kill a worker's main process with SIGKILL; return when, in seconds of CLOCK_MONOTONIC."""
        self.processes[name].send_signal(signal.SIGKILL)
        at = time.monotonic()
        self.processes[name].wait(STOP_TIMEOUT)
        return at

    def terminate(self, name: str) -> float:
        """Ask a worker to stop with SIGTERM; return when, in seconds of CLOCK_MONOTONIC."""
        self.processes[name].send_signal(signal.SIGTERM)
        return time.monotonic()

    def stop(self, *names: str) -> None:
        """Stop workers, and kill workers that don't stop."""
        for name in names:
            self.terminate(name)
        end = time.monotonic() + STOP_TIMEOUT
        for name in names:
            try:
                self.processes[name].wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.processes[name].pid, signal.SIGKILL)
                self.processes[name].wait(STOP_TIMEOUT)

    def last_words(self, name: str, lines: int = 15) -> str:
        """Return the last *lines* of a worker's output."""
        log = self.data / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _interrupt(number: int, _frame: object) -> None:
    """End the example on SIGTERM and SIGHUP, as Ctrl-C does."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def _undisturbed():  # type: ignore[no-untyped-def]
    """Ignore signals until the block ends: a second, impatient Ctrl-C must leave no worker behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
