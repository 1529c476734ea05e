"""``setup(app)``, and what an app that was never set up is told."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.beat import Scheduler
from celery.bin.base import CeleryOption
from celery.signals import beat_init
from celery.worker.control import Panel

import celery_leader
from celery_leader import leader_only
from celery_leader.app import refuse_without_setup
from celery_leader.worker.bootsteps import EmbeddedBeatStep, LeaderQueueStep, LeaderStep


def run_anything() -> None:
    """Stand for a task's code, which no test here runs."""


def made_app(**conf: Any) -> Celery:
    """Return an app with settings, not set up."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    return app


class Worker:
    """As much of a worker as ``worker_init`` shows."""

    def __init__(self, app: Celery, logfile: str | None = None) -> None:
        self.app, self.logfile, self.has_log = app, logfile, False

    def setup_logging(self) -> None:
        self.has_log = True


class Service:
    """As much of a plain beat as ``beat_init`` shows."""

    def __init__(self, app: Celery) -> None:
        self.app, self.scheduler = app, Scheduler(app, lazy=True)


def test_setup_adds_steps_options_and_commands() -> None:
    """Beside the project's own, and returns the app. No setting is read yet: they may be made later."""
    app = made_app()
    app.user_options["worker"].add(CeleryOption(("--color",), is_flag=True, help="The project's own."))
    assert celery_leader.setup(app) is app
    assert not app.configured
    assert app.steps["worker"] == {LeaderStep, EmbeddedBeatStep}
    assert app.steps["consumer"] == {LeaderQueueStep}
    options = {option.name: option for option in app.user_options["worker"]}
    assert set(options) == {"color", "without_leader", "leader_beat"}
    assert all(option.is_flag and option.help for option in options.values())
    assert "leader_status" in Panel.data


def test_an_app_that_was_set_up_starts() -> None:
    """Whatever it sets."""
    app = celery_leader.setup(made_app(leader_beat=True))
    app.task(name="guarded", shared=False)(leader_only(run_anything))
    refuse_without_setup(Worker(app))


def test_a_beat_that_nobody_would_run_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """By its own sentence, with the cure; the terminal shows it."""
    worker = Worker(made_app(leader_beat=True))
    with pytest.raises(SystemExit, match=r"leader_beat is set, but celery_leader\.setup\(app\) was not called"):
        refuse_without_setup(worker)
    assert not worker.has_log
    assert caplog.text == ""


def test_guarded_tasks_that_would_wait_for_ever_are_refused() -> None:
    """By name, of all elections."""
    app = made_app()
    app.task(name="close", shared=False)(leader_only(run_anything))
    app.task(name="report", shared=False)(leader_only(election="reports")(run_anything))
    with pytest.raises(SystemExit, match=r"close, report may run on the leader only, but celery_leader\.setup\(app\)"):
        refuse_without_setup(Worker(app))


def test_a_detached_worker_is_refused_in_its_file(caplog: pytest.LogCaptureFixture) -> None:
    """It has no terminal, and has not opened its log yet."""
    worker = Worker(made_app(leader_beat=True), logfile="worker.log")
    with pytest.raises(SystemExit):
        refuse_without_setup(worker)
    assert worker.has_log
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert "leader_beat is set" in caplog.text


@pytest.mark.parametrize("beat", [{}, {"leader_beat": False}])
def test_other_settings_alone_are_an_error_in_the_log(caplog: pytest.LogCaptureFixture, beat: dict[str, bool]) -> None:
    """Nothing is lost: is_leader() is False everywhere."""
    refuse_without_setup(Worker(made_app(leader_backend="memory://", **beat)))
    keys = ", ".join(sorted(["leader_backend", *beat]))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"Settings are made ({keys}), but celery_leader.setup(app) was not called" in caplog.text


def test_an_app_that_has_nothing_of_ours_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The package may be installed beside it."""
    app = made_app()
    app.task(name="plain", shared=False)(run_anything)
    refuse_without_setup(Worker(app))
    assert caplog.text == ""


@pytest.mark.parametrize("receivers", ["ours", "the command line's"])
def test_a_plain_beat_beside_leader_beat_is_refused(receivers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a process that was not started by Celery's command line; once, where both are there."""
    monkeypatch.setattr(beat_init, "receivers", [])
    app = made_app(leader_beat=True, leader_backend="memory://")
    if receivers == "ours":
        celery_leader.setup(app)
        celery_leader.setup(app)
    else:
        from celery_leader import cli

        beat_init.connect(cli._on_beat_init, dispatch_uid="celery_leader")
        celery_leader.setup(app)
    assert len(beat_init.receivers) == 1
    with pytest.raises(SystemExit, match="This beat follows no leader"):
        beat_init.send(sender=Service(app))
