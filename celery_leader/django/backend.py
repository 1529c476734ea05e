"""Elections in a database of Django's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from celery_leader.exceptions import ConfigurationError

# Models can't be imported before Django is set up, and the modules below import them: hence the imports in functions.
if TYPE_CHECKING:
    from celery_leader.django.connection import OwnConnection
    from celery_leader.django.ledger import DjangoLedger
    from celery_leader.django.lock import DjangoLock
    from celery_leader.django.once import DjangoOnceStore

_OPTIONS = ("server_timeouts", "listen")


def open_django(url: str, *, prefix: str, timeout: float, options: Mapping[str, Any]) -> DjangoBackend:
    """Return the backend in the database of ``django-db://alias``; ``django-db://`` is the default database.

    Args:
        url: The URL.
        prefix: What the names of elections begin with, before a colon.
        timeout: The longest (seconds) that one call may take.
        options: ``server_timeouts``: False for a PgBouncer that refuses connections which set ``options`` (statement,
            lock and idle timeouts). Calls are bounded without them, too. ``listen``: False for no notifications by
            PostgreSQL's ``NOTIFY``. Followers then poll, and need no second connection.

    Raises:
        ConfigurationError: Django is not set up, the app is not installed, the alias or an option is unknown.
    """
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise ConfigurationError(
            f"leader_backend_options has {', '.join(unknown)}; django-db:// knows only {', '.join(_OPTIONS)}. "
            "Set the client's own options in DATABASES."
        )
    for name, value in options.items():
        if not isinstance(value, bool):
            raise ConfigurationError(f"leader_backend_options[{name!r}] must be True or False, got {value!r}.")
    _require_app()
    from celery_leader.django.options import alias_of, alias_settings

    alias = alias_of(url)
    alias_settings(alias)
    return DjangoBackend(alias, prefix=prefix, timeout=timeout, **options)


def _require_app() -> None:
    try:
        if not apps.ready:
            django.setup()
    except (ImproperlyConfigured, RuntimeError) as error:
        raise ConfigurationError(
            f"django-db:// needs Django to be set up: {error} Set DJANGO_SETTINGS_MODULE, and open no backend while "
            "Django itself is starting."
        ) from error
    if not apps.is_installed("celery_leader.django"):
        raise ConfigurationError(
            'django-db:// needs the app: add "celery_leader.django" to INSTALLED_APPS and run '
            "`manage.py migrate celery_leader`."
        )


class DjangoBackend:
    """Locks, ledgers and once stores in one database. Each opens a connection of its own when it is first used."""

    def __init__(
        self, alias: str, *, prefix: str, timeout: float, server_timeouts: bool = True, listen: bool = True
    ) -> None:
        """Name the database; see :func:`open_django`."""
        self._alias = alias
        self._prefix = prefix
        self._timeout = timeout
        self._server_timeouts = server_timeouts
        self._listen = listen

    def lock(self, election: str) -> DjangoLock:
        """See :meth:`celery_leader.backends.Backend.lock`."""
        from celery_leader.django.lock import DjangoLock

        return DjangoLock(self._connection(), self._row(election), listen=self._listen)

    def ledger(self, election: str) -> DjangoLedger:
        """See :meth:`celery_leader.backends.Backend.ledger`."""
        from celery_leader.django.ledger import DjangoLedger

        return DjangoLedger(self._connection(), self._row(election), election)

    def once_store(self) -> DjangoOnceStore:
        """See :meth:`celery_leader.backends.Backend.once_store`."""
        from celery_leader.django.once import DjangoOnceStore

        return DjangoOnceStore(self._connection(), self._prefix)

    def check(self) -> None:
        """See :meth:`celery_leader.backends.Backend.check`."""
        connection = self._connection()
        try:
            missing = connection.run(_missing_columns)
        finally:
            connection.close()
        if missing:
            raise ConfigurationError(
                f"{self.describe()} lacks {', '.join(missing)}. "
                f"Run: manage.py migrate celery_leader --database {self._alias}"
            )

    def describe(self) -> str:
        """See :meth:`celery_leader.backends.Backend.describe`."""
        return f"django-db://{self._alias}"

    def _connection(self) -> OwnConnection:
        from celery_leader.django.connection import OwnConnection

        return OwnConnection(self._alias, timeout=self._timeout, server_timeouts=self._server_timeouts)

    def _row(self, election: str) -> str:
        from celery_leader.django.models import row_name

        return row_name(self._prefix, election, of="an election")


def _missing_columns(using: str) -> list[str]:
    """Return our tables and columns that the database lacks, because it was not migrated, or not far enough."""
    from django.db import connections

    from celery_leader.django.models import table_of

    introspection = connections[using].introspection
    missing = []
    with connections[using].cursor() as cursor:
        tables = set(introspection.table_names(cursor))
        for model in apps.get_app_config("celery_leader").get_models():
            table = table_of(model)
            if table not in tables:
                missing.append(f"the table {table}")
                continue
            columns = {column.name for column in introspection.get_table_description(cursor, table)}
            wanted = {str(field.column) for field in model._meta.local_concrete_fields}  # noqa: SLF001 - as above
            missing += [f"the column {table}.{name}" for name in sorted(wanted - columns)]
    return missing
