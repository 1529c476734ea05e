"""Passwords in settings: no error, log line or repr shows one, however the URL is malformed."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

import celery_leader
from celery_leader.backends import open_backend
from celery_leader.backends.urls import described
from celery_leader.cli import leader
from celery_leader.django.checks import check_backend
from celery_leader.exceptions import ConfigurationError
from celery_leader.settings import LeaderSettings
from tests.cli.test_status import Context

URLS = [
    "u:hunter2@host/0", "foo://u:hunter2?x@h", "foo://u:hunter2@h", "foo://u:x@hunter2/w?#@h", "redis:u:hunter2@h",
    "redis:/u:hunter2@h", "redis//u:hunter2@h", "://u:hunter2@h", "hunter2@h://", "u:hunter2@h://redis://h",
    "redis://u:hunter2[@h", "redis://u:hunter2]@h/0", "redis+cluster://u:hunter2[@h;h2", "sentinel://u:hunter2[@h/0",
    "redis://u:x/hunter2@h", "rediss://:hunter2@h:port", "django-db://u:hunter2@h", "redis://u:x;hunter2@h:1;h:2",
    "redis://u:hunter2@h:99999/0", "redis://u:x?hunter2@h", "redis://u:x#hunter2@h", "redis://u:hunter2@[::1",
    "redis+cluster://u:hunter2@h/3",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_no_error_shows_a_password(url: str, settings: Any) -> None:
    """Each is one sentence: of the backend, of the command line, of the system checks."""
    options = {"master_name": "m"} if url.startswith("sentinel") else {}
    with pytest.raises(ConfigurationError) as caught:
        open_backend(url, options=options)
    assert "hunter2" not in str(caught.value)
    app = celery_leader.setup(Celery("proj", broker="memory://", set_as_current=False))
    app.conf.update(leader_backend=url, leader_backend_options=options)
    result = CliRunner().invoke(leader, ["status"], obj=Context(app))
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "hunter2" not in result.output
    settings.CELERY_LEADER_BACKEND, settings.CELERY_LEADER_BACKEND_OPTIONS = url, options
    (message,) = check_backend()
    assert message.id in {"celery_leader.E001", "celery_leader.E002"}
    assert "hunter2" not in f"{message}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hunter2@h/0",
        "redis://u:[hunter2]@h",
        "rediss://:hunter2@h",
        "redis://h?password=hunter2",
        "redis+cluster://u:hunter2@h;h2",
    ],
)
def test_no_store_is_called_by_its_password(url: str) -> None:
    """Log lines name it. Newer Pythons refuse brackets in a URL, older ones read them."""
    try:
        described = open_backend(url).describe()
    except ConfigurationError as error:
        described = str(error)
    assert "hunter2" not in described


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hunter2@h:6379/0", "redis://h:6379/0"),
        ("redis+cluster://h:1;h:2", "redis+cluster://h:1;h:2"),
        ("redis+cluster://u:hunter2@h:1?ssl_ca_certs=x;h:2", "redis+cluster://h:1?…"),
        ("redis://h?password=a;hunter2", "redis://h?…"),
        ("redis://h?password=a@hunter2", "redis://…"),
        ("redis+cluster://u:x@h;u:hunter2@h2", "redis+cluster://…"),
        ("sentinel://:x@h;sentinel://:hunter2@h", "sentinel://…"),
        ("redis://h#\nhunter2", "redis://h?…"),
        ("foo://u:hunter2@h", "foo://h"),
        ("hunter2@h", "…"),
    ],
)
def test_a_url_is_shown_as_far_as_it_holds_no_password(url: str, shown: str) -> None:
    """Whoever reads a log must know which store is meant; what may belong to a password is left out."""
    assert described(url) == shown


def test_settings_show_no_password() -> None:
    """A traceback or a debugger may show them whole."""
    options = {"password": "hunter2", "sentinel_kwargs": {"password": "hunter2"}}
    settings = LeaderSettings(backend="redis://u:hunter2@h", backend_options=options)
    assert "hunter2" not in repr(settings)
    assert "lease_duration=15.0" in repr(settings)


def test_celery_hides_a_password_where_the_documents_want_it() -> None:
    """``inspect conf`` shows the query of a URL, which SECURITY.md advises against."""
    app = Celery("proj", set_as_current=False)
    for url in ("redis://u:hunter2@h", "redis://:hunter2@h"):
        app.conf.leader_backend = url
        assert "hunter2" not in app.conf.humanize()
    app.conf.leader_backend_options = {"password": "hunter2"}
    assert "hunter2" not in app.conf.humanize()
