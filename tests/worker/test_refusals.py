"""What would send each tick twice, or none for ever, does not start: one sentence with the cure, and a status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.project import Project
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROJECT = """
    from celery import Celery
    import celery_leader

    app = Celery("proj", broker="filesystem://")
    app.conf.update(
        broker_transport_options={{"data_folder_in": ".", "data_folder_out": ".", "control_folder": "."}},
        leader_backend="memory://x", beat_schedule={{"tick": {{"task": "proj.tick", "schedule": 1.0}}}},
        {settings}
    )
    {setup}

    @app.task
    {guard}
    def tick(): ...
"""
SETUP = "celery_leader.setup(app)"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty folder."""
    with Project(tmp_path) as project:
        yield project


def write(project: Project, *, settings: str = "", setup: str = SETUP, guard: str = "") -> None:
    """Write the module ``proj``."""
    project.write("proj.py", PROJECT.format(settings=settings, setup=setup, guard=guard))


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ("leader_beat=True,", ["-B"], "-B starts a beat that follows no leader"),
        ("leader_beat=True,", ["-B", "--without-leader"], "-B starts a beat that follows no leader"),
        ("", ["-B", "--leader-beat"], "-B starts a beat that follows no leader"),
        ("", ["--leader-beat", "--without-leader"], "--leader-beat and --without-leader contradict each other"),
    ],
)
def test_options_that_contradict_each_other(project: Project, settings: str, options: list[str], said: str) -> None:
    """A worker that would be a second sender, or promises what it can't keep."""
    write(project, settings=settings)
    done = project.celery("worker", "-P", "solo", *options)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: {said}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("setup", [SETUP, ""], ids=["set up", "not set up"])
def test_a_plain_beat_beside_leader_beat(project: Project, setup: str) -> None:
    """Every tick would be sent twice, also by a beat that was started by habit."""
    write(project, settings="leader_beat=True,", setup=setup)
    done = project.celery("beat", "--schedule", "x")
    assert done.returncode == 1
    assert "This beat follows no leader, so every periodic task would be sent twice." in done.stderr
    assert "Sending due task" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "guard", "said"),
    [
        ("leader_beat=True,", "", "leader_beat is set, but celery_leader.setup(app) was not called."),
        (
            "",
            "@celery_leader.leader_only",
            "proj.tick may run on the leader only, but celery_leader.setup(app) was not",
        ),
    ],
)
def test_a_worker_whose_app_was_never_set_up(project: Project, settings: str, guard: str, said: str) -> None:
    """It would never lead, and say nothing."""
    write(project, settings=settings, setup="", guard=guard)
    done = project.celery("worker", "-P", "solo")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("setup", [SETUP, ""], ids=["set up", "not set up"])
def test_a_detached_worker_says_it_in_its_file(project: Project, setup: str) -> None:
    """`celery multi` and `--detach` start it without a terminal, and report success whatever becomes of it."""
    write(project, settings="leader_beat=True,", setup=setup)
    options = ["-B"] if setup else []
    project.celery("worker", "-P", "solo", *options, "--detach", "--pidfile", "w.pid", "--logfile", "w.log")
    said = "-B starts a beat that follows no leader" if setup else "celery_leader.setup(app) was not called"
    log = project.folder / "w.log"
    eventually(lambda: log.exists() and said in log.read_text(), 30, what=said)


def test_settings_alone_are_an_error_in_the_log(project: Project) -> None:
    """Nothing is lost yet: is_leader() is False everywhere."""
    write(project, setup="")
    worker = project.start("worker", "-P", "solo", "-l", "INFO")
    worker.await_line(r"Settings are made \(leader_backend\), but celery_leader.setup\(app\) was not called")
    worker.await_line("ready")
    assert worker.end() == 0


def test_an_app_that_has_nothing_of_ours_starts_as_ever(project: Project) -> None:
    """The package may be installed beside it."""
    project.write("proj.py", "from celery import Celery\napp = Celery('proj', broker='memory://')\n")
    worker = project.start("worker", "-P", "solo", "-l", "INFO")
    worker.await_line("ready")
    assert "leader" not in worker.log
    assert worker.end() == 0
