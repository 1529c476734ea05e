"""A worker that takes part in no election, by a real process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from celery_leader.election import SystemClock, Term, Trust
from celery_leader.leadership import state
from celery_leader.leadership.shared_trust import SharedTrust
from tests.project import Project

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = """
    from celery import Celery
    import celery_leader

    app = Celery("proj", broker="filesystem://")
    app.conf.update(
        broker_transport_options={"data_folder_in": ".", "data_folder_out": ".", "control_folder": "."},
        leader_backend="memory://x",
    )
    celery_leader.setup(app)

    @app.task
    def ask():
        print(f"leads: {celery_leader.is_leader()}")
"""


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_it_does_not_lead_though_a_leading_worker_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    """It has that worker's environment, which names what its spawned children believe."""
    shared_trust = SharedTrust.create(in_file=True)
    now = SystemClock().monotonic()
    shared_trust.publish(Trust(Term("default", "the other", 1), renewed_at=now, until=now + 600))
    monkeypatch.setenv(state.TRUSTS_VARIABLE, json.dumps({"default": str(shared_trust.path)}))
    try:
        with Project(tmp_path) as project:
            project.write("proj.py", PROJECT)
            assert project.celery("call", "proj.ask").returncode == 0
            worker = project.start("worker", "-P", pool, "-c", "1", "--without-leader", "-l", "INFO")
            assert "leads: False" in worker.await_line("leads: ")
    finally:
        shared_trust.unlink()
