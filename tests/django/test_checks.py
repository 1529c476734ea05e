"""System checks find a backend that can't work, by stable ids and with a hint."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any
from weakref import WeakSet

import pytest
from celery import Celery
from celery._state import get_current_app
from django.core.checks import run_checks

from celery_leader.backends import urls
from celery_leader.django import checks
from tests.databases import variant


@pytest.fixture
def backend(settings: Any) -> Any:
    """Set CELERY_LEADER_BACKEND and return the messages of our checks as (id, text)."""

    def check(url: Any, **others: Any) -> list[tuple[str | None, str]]:
        settings.CELERY_LEADER_BACKEND = url
        for name, value in others.items():
            setattr(settings, name, value)
        messages = [message for message in run_checks() if (message.id or "").startswith("celery_leader.")]
        # Settings without an app have tests of their own below.
        messages = [message for message in messages if message.id not in {"celery_leader.E003", "celery_leader.W004"}]
        assert all(message.hint for message in messages)
        return [(message.id, message.msg) for message in messages]

    return check


def test_without_a_setting_the_default_database_is_meant(backend: Any) -> None:
    """As workers do."""
    assert backend(None) == []


@pytest.mark.parametrize("url", ["django-db://default/", "DJANGO-DB://", "memory://", "redis://localhost"])
def test_what_works_is_silent(backend: Any, url: str) -> None:
    """Memory is fine while developing."""
    assert backend(url, DEBUG=True) == []


@pytest.mark.parametrize(("installed", "found"), [(True, ["celery_leader.W003"]), (False, [])])
def test_w003_short_names_of_schedulers(
    backend: Any, monkeypatch: pytest.MonkeyPatch, installed: bool, found: list[str]
) -> None:
    """Only the admin of django-celery-beat does not know them. The hint has the name that it knows."""
    points = entry_points(group="celery.beat_schedulers")
    names = {point.name: point.value for point in points if "celery_leader" in point.value}
    assert names == checks._SHORT_NAMES
    monkeypatch.setattr(checks.apps, "is_installed", lambda name: installed)
    for name in [*names, "django", None]:
        messages = backend(None, CELERY_BEAT_SCHEDULER=name)
        assert [identity for identity, _ in messages] == (found if name in names else [])
        assert [text for _, text in messages if f"CELERY_BEAT_SCHEDULER is {name!r}" not in text] == []


def test_e001_alias_unknown(backend: Any) -> None:
    """The message names the alias and those that there are."""
    [(identity, text)] = backend("django-db://nowhere")
    assert identity == "celery_leader.E001"
    assert "django-db://nowhere" in text
    assert "default" in text


@pytest.mark.parametrize("url", ["postgres://x", "nonsense", 5])
def test_e002_scheme_unknown(backend: Any, url: Any) -> None:
    """The message lists the known ones."""
    [(identity, text)] = backend(url)
    assert identity == "celery_leader.E002"
    assert "django-db://" in text


def test_e002_extra_missing(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(urls._FACTORIES, "redis", ("a_module_that_is_not_there:open_redis", "redis"))
    [(identity, text)] = backend("redis://localhost")
    assert identity == "celery_leader.E002"
    assert "pip install 'celery-leader[redis]'" in text


def test_passwords_are_not_shown(backend: Any) -> None:
    """Check output ends in logs."""
    [(_, text)] = backend("rabbit://me:secret@host/")
    assert "secret" not in text


def test_e002_options_of_a_client(backend: Any) -> None:
    """They are looked at with the URL."""
    [(identity, text)] = backend("redis://localhost", CELERY_LEADER_BACKEND_OPTIONS={"nonsense": 60})
    assert identity == "celery_leader.E002"
    assert "nonsense" in text


def test_w001_memory_outside_debug(backend: Any) -> None:
    """Every process would lead."""
    assert [identity for identity, _ in backend("memory://")] == ["celery_leader.W001"]


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared"])
def test_w002_sqlite_in_memory(backend: Any, sqlite_alias: str, name: str) -> None:
    """A warning only: a project's tests do so."""
    with variant(sqlite_alias, NAME=name) as alias:
        assert [identity for identity, _ in backend(f"django-db://{alias}")] == ["celery_leader.W002"]


def test_an_engine_that_django_can_not_load_is_djangos_to_report(sqlite_alias: str, settings: Any) -> None:
    """Its driver is missing, say."""
    with variant(sqlite_alias, ENGINE="django.db.backends.oracle") as alias:
        settings.CELERY_LEADER_BACKEND = f"django-db://{alias}"
        assert checks.check_backend() == []


# -- what workers refuse -----------------------------------------------------------------------------------------


@pytest.fixture
def ours(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the messages of :func:`check_settings` with some settings, before and after an app is set up."""
    monkeypatch.setattr(checks, "apps_set_up", set_up := WeakSet())

    def check(*, app: bool, **values: Any) -> list[tuple[str | None, str]]:
        for name, value in values.items():
            setattr(settings, name, value)
        if app:
            made = Celery("proj", set_as_current=False)
            made.config_from_object("django.conf:settings", namespace="CELERY")
            set_up.add(made)
            kept.append(made)
        messages = checks.check_settings()
        assert all(message.hint for message in messages)
        return [(message.id, message.msg) for message in messages]

    kept: list[Celery] = []
    return check


@pytest.mark.parametrize("app", [True, False])
def test_e003_what_a_worker_refuses(ours: Any, app: bool) -> None:
    """Each problem is a message of its own, by the function that workers ask at their start."""
    messages = ours(app=app, CELERY_LEADER_BEATS=True, CELERY_LEADER_RETRY_PERIOD="2")
    assert [text for identity, text in messages if identity == "celery_leader.E003"] == [
        "Unknown setting leader_beats. Did you mean leader_beat?",
        "leader_retry_period must be a number of seconds, got '2'.",
    ]


def test_e003_an_impossible_timing(ours: Any) -> None:
    """No single value is wrong."""
    [(identity, text)] = ours(app=True, CELERY_LEADER_LEASE_DURATION=5)
    assert identity == "celery_leader.E003"
    assert "lease_duration must be longer than renew_deadline" in text


def test_e003_a_scheduler_that_can_not_be_used(ours: Any) -> None:
    """Nor does a worker start with it."""
    [(identity, text)] = ours(app=True, CELERY_LEADER_BEAT=True, CELERY_LEADER_BEAT_SCHEDULER="nowhere.to.be:Found")
    assert identity == "celery_leader.E003"
    assert text.startswith("The scheduler 'nowhere.to.be:Found' can't be used: ModuleNotFoundError")


def test_w004_setup_was_forgotten(ours: Any) -> None:
    """Workers would refuse to start, or never lead."""
    [(identity, text)] = ours(app=False, CELERY_LEADER_BEAT=True)
    assert identity == "celery_leader.W004"
    assert "(CELERY_LEADER_BEAT), but celery_leader.setup(app) was not called" in text


def test_an_app_that_is_set_up_is_fine(ours: Any) -> None:
    """And so is a project without any setting of ours. No check makes its own app the current one."""
    current = get_current_app()
    assert ours(app=False) == []
    assert get_current_app() is current
    assert ours(app=True, CELERY_LEADER_BEAT=True) == []
