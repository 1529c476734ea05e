"""``celery -A proj leader status``: read by people, by programs and by probes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from celery_leader.backends import open_backend
from celery_leader.backends.memory import MemoryLock
from celery_leader.cli import leader
from celery_leader.election import SystemClock
from celery_leader.exceptions import LockUnavailable
from celery_leader.testing import sample_record


class Context:
    """What Celery's command line hands to its sub-commands."""

    def __init__(self, app: Celery) -> None:
        self.app = app


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Celery:
    """An app whose elections are kept in a store of this test."""
    app = Celery("proj", set_as_current=False)
    app.conf.update(leader_backend=f"memory://{request.node.nodeid}", leader_elections=["default", "reports"])
    return app


def status(app: Celery, *options: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(leader, ["status", *options], obj=Context(app))


def lock_of(app: Celery, election: str) -> MemoryLock:
    """Return the place of the record of *election*."""
    lock = open_backend(app.conf.leader_backend, prefix="proj").lock(election)
    assert isinstance(lock, MemoryLock)
    return lock


def test_before_the_first_election_all_are_vacant(app: Celery) -> None:
    """Each configured election has its line."""
    lines = status(app).stdout.splitlines()
    assert lines[0].split() == ["NAME", "HOLDER", "STATE", "TOKEN", "RENEWED", "TRANSITIONS"]
    assert lines[1].split() == ["default", "-", "vacant", "-", "-", "0"]
    assert [line.split()[0] for line in lines[1:]] == ["default", "reports"]


def test_a_leader_is_shown(app: Celery) -> None:
    """Who, since when, in which term."""
    now = SystemClock().utcnow()
    lock_of(app, "reports").create(sample_record(renew_time=now))
    report = json.loads(status(app, "--json").stdout)
    assert report["backend"].startswith("memory://")
    assert report["elections"][1] == {
        "name": "reports",
        "state": "leading",
        "holder": "celery@web-1/4121/9f3c2a10",
        "fencing_token": 1_795_400_000_123,
        "acquire_time": sample_record().acquire_time.isoformat(),  # type: ignore[union-attr]
        "renew_time": now.isoformat(),
        "lease_duration": 15.0,
        "leader_transitions": 3,
    }
    assert "s ago" in status(app).stdout


def test_a_record_that_nobody_renews_has_expired(app: Celery) -> None:
    """It names a holder that is gone."""
    lock_of(app, "default").create(sample_record())
    assert json.loads(status(app, "--json").stdout)["elections"][0]["state"] == "expired"


def test_probes_go_by_the_exit_status(app: Celery) -> None:
    """0 only when every election is led."""
    assert status(app, "--check").exit_code == 1
    for election in ("default", "reports"):
        lock_of(app, election).create(replace(sample_record(), renew_time=SystemClock().utcnow()))
    assert status(app, "--check").exit_code == 0


def test_a_store_that_does_not_answer_is_said(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Celery's status for a service that is away."""

    def refuse(self: MemoryLock) -> None:
        raise LockUnavailable("memory://x: no answer")

    monkeypatch.setattr(MemoryLock, "get", refuse)
    result = status(app)
    assert result.exit_code == 69
    assert result.stderr == "Error: memory://x: no answer\n"


def test_a_wrong_setting_is_one_sentence(app: Celery) -> None:
    """No traceback."""
    app.conf.leader_lease = 5
    result = status(app)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Unknown setting leader_lease.")


def test_the_command_belongs_to_celery(tmp_path: Path) -> None:
    """Installed, ``celery -A proj leader status`` is found by its entry point."""
    (tmp_path / "proj.py").write_text(
        "import celery\nimport celery_leader\napp = celery.Celery('proj')\n"
        "app.conf.leader_backend = 'memory://'\ncelery_leader.setup(app)\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "proj", "leader", "status"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "default" in result.stdout
