"""A user's project in a folder, and the celery commands that are run in it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

from tests.waiting import eventually

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[1]


class Running:
    """A command that runs: its log, and its end."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self._path = path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it wrote until now."""
        return self._path.read_text()

    def await_line(self, pattern: str, timeout: float = 30) -> str:
        """Wait until a line of the log holds the regular expression *pattern*; return the line."""

        def found() -> str | None:
            return next((line for line in self.log.splitlines() if re.search(pattern, line)), None)

        line = eventually(found, timeout, interval=0.1, what=f"{pattern!r} in\n{self.log}")
        assert line
        return line

    def end(self, number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End all its processes, whatever they do."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


class Project:
    """Python modules in a folder; its processes end with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Running] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for running in self._running:
            running.kill()

    def write(self, name: str, code: str) -> None:
        """Write the file *name*."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(code))

    def celery(self, *words: str, app: str = "proj", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``celery -A proj …`` to its end."""
        return subprocess.run(
            self._command(app, words), cwd=self.folder, env=self._environment(), capture_output=True, text=True,
            timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, *words: str, app: str = "proj") -> Running:
        """Start ``celery -A proj …`` in a session of its own."""
        path = self.folder / f"{len(self._running)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                self._command(app, words), cwd=self.folder, env=self._environment(), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._running.append(Running(process, path))
        return self._running[-1]

    @staticmethod
    def _command(app: str, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", app, *words]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "DJANGO_SETTINGS_MODULE": ""}
