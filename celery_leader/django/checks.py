"""System checks, which find wrong settings before a worker starts.

They read Django's settings, so they see a Celery app that is configured with ``namespace="CELERY"``. They open no
connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery
from django.apps import apps
from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.core.exceptions import ImproperlyConfigured

from celery_leader.backends import open_backend
from celery_leader.django.options import alias_of, alias_settings, is_in_memory
from celery_leader.exceptions import ConfigurationError
from celery_leader.settings import LeaderSettings, apps_set_up, leader_values

#: The entry points of pyproject.toml, and what they stand for.
_SHORT_NAMES = {
    "leader": "celery_leader.beat.scheduler:LeaderScheduler",
    "leader-django": "celery_leader.beat.scheduler:LeaderDatabaseScheduler",
}


def check_backend(
    app_configs: Sequence[AppConfig] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Return what is wrong with ``CELERY_LEADER_BACKEND``, or with the default database when it is not set.

    * ``celery_leader.E001``: it names a database alias that ``DATABASES`` does not have.
    * ``celery_leader.E002``: its scheme is unknown, the URL is malformed, or a package that it needs is missing.
    * ``celery_leader.W001``: the store is this process's memory, and ``DEBUG`` is off.
    * ``celery_leader.W002``: the store is an SQLite database in memory.
    """
    if alias := database_alias():
        return _check_alias(alias)
    url = getattr(settings, "CELERY_LEADER_BACKEND", None)
    if str(url).startswith("memory:") and not settings.DEBUG:
        return [
            Warning(
                "CELERY_LEADER_BACKEND is memory://, which no other process can see: every worker leads.",
                hint="Use redis://… or django-db://default; memory:// is for tests and single-process development.",
                id="celery_leader.W001",
            )
        ]
    return _check_url(url)


def check_settings(
    app_configs: Sequence[AppConfig] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Return the problems for which workers would refuse to start, in the same words.

    * ``celery_leader.E003``: a setting is unknown or has a wrong value, a timing is impossible, or the scheduler can't
      be used.
    * ``celery_leader.W004``: there are settings, but no Celery app was set up to read them.
    """
    from_django = Celery(set_as_current=False)
    from_django.config_from_object("django.conf:settings", namespace="CELERY")
    keys = sorted(f"CELERY_LEADER_{name.upper()}" for name in leader_values(from_django.conf))
    if apps_set_up or not keys:
        return [message for app in apps_set_up for message in _check_app(app)]
    return [*_check_app(from_django), _no_app(keys)]


def _check_app(app: Any) -> list[CheckMessage]:
    try:
        settings = LeaderSettings.from_app(app)
        if settings.beat:
            from celery_leader.beat.scheduler import leader_scheduler  # a web server runs checks, and needs no beat

            leader_scheduler(settings.beat_scheduler)
    except ConfigurationError as error:
        hint = "docs/reference/settings.md lists all settings."
        return [Error(line, hint=hint, id="celery_leader.E003") for line in str(error).splitlines()]
    return []


def _no_app(keys: list[str]) -> CheckMessage:
    return Warning(
        f"There are settings ({', '.join(keys)}), but celery_leader.setup(app) was not called for any Celery app.",
        hint="Call it where the app is made, and import the app in the project's __init__.py, as in Celery's manual.",
        id="celery_leader.W004",
    )


def check_beat_scheduler(
    app_configs: Sequence[AppConfig] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Return whether django-celery-beat's admin would fail on ``CELERY_BEAT_SCHEDULER``.

    * ``celery_leader.W003``: it is one of our short names. ``celery beat`` knows them; that admin does not.
    """
    name = getattr(settings, "CELERY_BEAT_SCHEDULER", None)
    if name not in _SHORT_NAMES or not apps.is_installed("django_celery_beat"):
        return []
    return [
        Warning(
            f"CELERY_BEAT_SCHEDULER is {name!r}, a short name that django-celery-beat's admin does not know.",
            hint=f'Use "{_SHORT_NAMES[name]}", or leave it out and start beats with -S {name}.',
            id="celery_leader.W003",
        )
    ]


def database_alias() -> str | None:
    """Return the alias of the database in which the project keeps its elections; None if it is another store."""
    url = str(getattr(settings, "CELERY_LEADER_BACKEND", None) or "django-db://")
    return alias_of(url) if url.lower().startswith("django-db:") else None


def _check_alias(alias: str) -> list[CheckMessage]:
    try:
        in_memory = is_in_memory(alias_settings(alias))
    except ConfigurationError as error:
        hint = "Set CELERY_LEADER_BACKEND to django-db://<alias> with a key of DATABASES."
        return [Error(f"CELERY_LEADER_BACKEND: {error}", hint=hint, id="celery_leader.E001")]
    except (ImproperlyConfigured, ImportError):  # the engine can't be loaded, which Django reports itself
        return []
    if not in_memory:
        return []
    return [
        Warning(
            f"Elections are kept in the SQLite database {alias!r}, which is in memory: workers can't use it.",
            hint="Give it a file as NAME, or set CELERY_LEADER_BACKEND. In tests this is fine: silence it there.",
            id="celery_leader.W002",
        )
    ]


def _check_url(url: Any) -> list[CheckMessage]:
    try:
        open_backend(url, options=getattr(settings, "CELERY_LEADER_BACKEND_OPTIONS", None))
    except ConfigurationError as error:
        hint = "Use redis://…, rediss://…, sentinel://…, django-db://<alias> or memory://, and install what it needs."
        return [Error(f"CELERY_LEADER_BACKEND: {error}", hint=hint, id="celery_leader.E002")]
    return []
