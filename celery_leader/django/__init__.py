"""The Django app of celery-leader: elections in a database, the admin, system checks.

Add ``"celery_leader.django"`` to ``INSTALLED_APPS`` and run ``manage.py migrate celery_leader``. This package is the
only part of celery-leader that imports Django.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps as registry  # there is a module of ours of that name
from django.core.exceptions import ImproperlyConfigured

from celery_leader.exceptions import ConfigurationError

if TYPE_CHECKING:
    from celery_leader.django.backend import DjangoBackend

_OPTIONS = ("server_timeouts", "listen")


def open_django(url: str, *, prefix: str, timeout: float, options: Mapping[str, Any]) -> DjangoBackend:
    """Return the database that ``django-db://alias`` names; ``django-db://`` is the default one.

    Args:
        url: The URL.
        prefix: Put before the names of elections, with a colon.
        timeout: The longest (seconds) that one call may take.
        options: ``server_timeouts``: False for a PgBouncer that refuses connections which set ``options`` (statement,
            lock and idle timeouts); calls are bounded without them, too. ``listen``: False to neither tell nor hear of
            changes by PostgreSQL's ``NOTIFY``; followers then poll, and need no second connection.

    Raises:
        ConfigurationError: Django is not set up, the app is not installed, the alias or an option is unknown.
    """
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise ConfigurationError(
            f"leader_backend_options has {', '.join(unknown)}; for django-db:// there is only "
            f"{', '.join(_OPTIONS)}. Set the client's own options in DATABASES."
        )
    for name, value in options.items():
        if not isinstance(value, bool):
            raise ConfigurationError(f"leader_backend_options[{name!r}] must be True or False, got {value!r}.")
    _require_app()
    # Neither can be imported before Django is set up.
    from celery_leader.django.backend import DjangoBackend
    from celery_leader.django.options import alias_settings

    alias = url.partition("://")[2].rstrip("/") or "default"
    alias_settings(alias)
    return DjangoBackend(alias, prefix=prefix, timeout=timeout, **options)


def _require_app() -> None:
    try:
        if not registry.ready:
            django.setup()
    except (ImproperlyConfigured, RuntimeError) as error:
        raise ConfigurationError(
            f"django-db:// needs Django to be set up: {error} Set DJANGO_SETTINGS_MODULE, and open no backend while "
            "Django itself is starting."
        ) from error
    if not registry.is_installed("celery_leader.django"):
        raise ConfigurationError(
            'django-db:// needs the app: add "celery_leader.django" to INSTALLED_APPS and run '
            "`manage.py migrate celery_leader`."
        )
