"""What somebody reads on the terminal whose beat can't start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project import Project

PROJECT = """
    from celery import Celery
    import celery_leader

    app = Celery("proj", broker="filesystem://")
    app.conf.update(
        broker_transport_options={"data_folder_in": ".", "data_folder_out": ".", "control_folder": "."},
        leader_backend="memory://x",
        leader_beat_scheduler="proj:Missing",
    )
    celery_leader.setup(app)

    def __getattr__(name):  # a base whose package is not installed
        from nowhere import Scheduler
"""


@pytest.mark.parametrize("command", [("worker", "-P", "solo", "--leader-beat"), ("beat", "-S", "leader-django")])
def test_a_scheduler_that_can_not_be_used_is_told_of_in_a_sentence(tmp_path: Path, command: tuple[str]) -> None:
    """On the terminal, by a worker and by a beat of its own, with status 1."""
    with Project(tmp_path) as project:
        project.write("proj.py", PROJECT)
        done = project.celery(*command)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: The scheduler '")
    assert "can't be used: " in last
    assert "Name its class" in last
    assert "Traceback" not in done.stderr
