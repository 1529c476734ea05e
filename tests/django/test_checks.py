"""System checks find a backend that can't work, by stable ids and with a hint."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks

from celery_leader.backends import urls
from tests.databases import variant


@pytest.fixture
def backend(settings: Any) -> Any:
    """Set CELERY_LEADER_BACKEND and return the messages of our checks as (id, text)."""

    def check(url: Any, **others: Any) -> list[tuple[str | None, str]]:
        settings.CELERY_LEADER_BACKEND = url
        for name, value in others.items():
            setattr(settings, name, value)
        messages = [message for message in run_checks() if (message.id or "").startswith("celery_leader.")]
        assert all(message.hint for message in messages)
        return [(message.id, message.msg) for message in messages]

    return check


def test_without_a_setting_the_default_database_is_meant(backend: Any) -> None:
    """As workers do."""
    assert backend(None) == []


@pytest.mark.parametrize("url", ["django-db://default", "django-db://", "memory://"])
def test_what_works_is_silent(backend: Any, url: str) -> None:
    """Memory is fine while developing."""
    assert backend(url, DEBUG=True) == []


def test_a_scheduler_without_django_celery_beat_is_no_concern(backend: Any) -> None:
    """Its admin is what a short name is warned of for."""
    assert backend(None, CELERY_BEAT_SCHEDULER="leader") == []


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


def test_w001_memory_outside_debug(backend: Any) -> None:
    """Every process would lead."""
    assert [identity for identity, _ in backend("memory://")] == ["celery_leader.W001"]


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared"])
def test_w002_sqlite_in_memory(backend: Any, sqlite_alias: str, name: str) -> None:
    """A warning only: a project's tests do so."""
    with variant(sqlite_alias, NAME=name) as alias:
        assert [identity for identity, _ in backend(f"django-db://{alias}")] == ["celery_leader.W002"]
