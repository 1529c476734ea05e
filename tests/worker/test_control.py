"""What programs ask workers by remote control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery import Celery
from celery.app.control import Inspect
from celery.worker.control import Panel

import celery_leader
from tests.project import Project
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import RedisServer

PROJECT = """
    from celery import Celery
    import celery_leader

    app = Celery("proj", broker="{url}")
    app.conf.update(leader_backend="{url}", leader_key_prefix="control")
    celery_leader.setup(app)
"""


@pytest.mark.redis
def test_inspect_has_a_method_for_the_leader(tmp_path: Path, redis_server: RedisServer) -> None:
    """As for Celery's own commands: answers by worker, None when there is no worker."""
    url = f"{redis_server.url.removesuffix('0')}7"
    app = celery_leader.setup(Celery("proj", broker=url, set_as_current=False))
    assert app.control.inspect(timeout=0.1).leader_status() is None
    with Project(tmp_path) as project:
        project.write("proj.py", PROJECT.format(url=url))
        worker = project.start("worker", "-P", "solo", "-n", "w@here", "-l", "INFO")
        worker.await_line("ready")
        inspect = app.control.inspect(["w@here"], timeout=5, limit=1)
        answers = eventually(
            lambda: (found := inspect.leader_status())["w@here"]["elections"]["default"]["leading"] and found,
            ignore=TypeError,  # no answer in time
        )
        assert answers
        assert answers["w@here"]["elections"]["default"]["identity"].startswith("w@here/")
        assert worker.end() == 0


def test_the_method_asks_for_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name under which workers have it, and returns what they answer."""
    asked: list[str] = []
    monkeypatch.setattr(Inspect, "_request", lambda inspect, command: asked.append(command) or {"w@here": {}})
    app = celery_leader.setup(Celery("proj", broker="memory://", set_as_current=False))
    assert app.control.inspect().leader_status() == {"w@here": {}}
    assert asked == ["leader_status"]
    assert Panel.meta["leader_status"].type == "inspect"
