"""The README's quick starts, typed as they stand into fresh environments, reach a leader that ticks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.project import Running
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import RedisServer

ROOT = Path(__file__).resolve().parent.parent
TOLD = "hello from the leader's beat"

pytestmark = [pytest.mark.once, pytest.mark.redis, pytest.mark.timeout(300), pytest.mark.xdist_group("quick start")]


class Newcomer:
    """Somebody with an empty folder, a fresh environment, and the README."""

    def __init__(self, folder: Path, wheels: Path, redis: RedisServer) -> None:
        self.folder = folder
        self._redis = f"127.0.0.1:{redis.port}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PYTHON"))},
            "PATH": os.pathsep.join([str(folder / "environment" / "bin"), os.environ["PATH"]]),
            "PIP_FIND_LINKS": str(wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        self._workers: list[Running] = []
        subprocess.run([sys.executable, "-m", "venv", str(folder / "environment")], check=True)

    def follow(self, section: str) -> None:
        """Do what *section* of the README says, up to the worker."""
        for language, block in blocks(section):
            if language == "python":
                self._write(block)
                continue
            for command in commands(block):
                if " worker " not in command:
                    self.run(command)

    def run(self, command: str) -> None:
        """Type *command*."""
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def start_worker(self, section: str) -> Running:
        """Type the section's last command into a terminal of its own."""
        command = [command for _, block in blocks(section) for command in commands(block)][-1]
        path = self.folder / f"{len(self._workers)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                f"exec {command}", shell=True, cwd=self.folder, env=self._environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._workers.append(Running(process, path))
        return self._workers[-1]

    def told(self) -> int:
        """Return how often the periodic task ran."""
        return self.logs().count(TOLD)

    def logs(self) -> str:
        """Return what all workers wrote."""
        return "\n".join(worker.log for worker in self._workers)

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.kill()

    def _write(self, block: str) -> None:
        """Write a file that the block names in its first line; settings are added to those that there are."""
        name = block.split()[1].rstrip(":")
        path = self.folder / name
        before = path.read_text() if path.name == "settings.py" else ""
        path.write_text(before + "\n" + block.replace("localhost:6379", self._redis))


def blocks(section: str) -> list[tuple[str, str]]:
    """Return language and text of each code block of a section of the README."""
    text = (ROOT / "README.md").read_text().partition(f"### {section}\n")[2].partition("\n### ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def commands(block: str) -> list[str]:
    """Return what follows the prompts, without the comments."""
    return [line[2:].partition("  #")[0].strip() for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as it is here: pip takes the rest from where it always does."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def newcomer(tmp_path: Path, wheels: Path, redis_server: RedisServer) -> Iterator[Newcomer]:
    """Whose processes end with the test."""
    newcomer = Newcomer(tmp_path, wheels, redis_server)
    yield newcomer
    newcomer.close()


@pytest.mark.parametrize("section", ["Django", "Celery with Redis"])
def test_a_quick_start_works_as_it_stands(newcomer: Newcomer, section: str) -> None:
    """The periodic task runs; the leader is stopped, and it goes on."""
    if section == "Django":  # the reader has a project
        newcomer.run("pip install -q Django")
        newcomer.run("django-admin startproject proj .")
    newcomer.follow(section)
    first = newcomer.start_worker(section)
    eventually(lambda: newcomer.told() >= 2, 60, what=f"the task runs\n{newcomer.logs()}")
    assert "started leading" in newcomer.logs()
    newcomer.start_worker(section)
    eventually(lambda: newcomer.logs().count(" ready.") == 2, 60)
    first.end(signal.SIGINT)  # Ctrl-C
    told = newcomer.told()
    eventually(lambda: newcomer.told() >= told + 2, 60, what="the task goes on")
    assert "ERROR" not in newcomer.logs()
