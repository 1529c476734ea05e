"""Elections in a database of Django's."""

from __future__ import annotations

from django.apps import apps
from django.db import connections

from celery_leader.django.connection import OwnConnection
from celery_leader.django.ledger import DjangoLedger
from celery_leader.django.lock import DjangoLock
from celery_leader.django.models import row_name, table_of
from celery_leader.django.once import DjangoOnceStore
from celery_leader.exceptions import ConfigurationError


class DjangoBackend:
    """Locks, ledgers and once stores in one database. Each opens a connection of its own when it is first used."""

    def __init__(
        self, alias: str, *, prefix: str, timeout: float, server_timeouts: bool = True, listen: bool = True
    ) -> None:
        """Name the database; see :func:`celery_leader.django.open_django`."""
        self._alias = alias
        self._prefix = prefix
        self._timeout = timeout
        self._server_timeouts = server_timeouts
        self._listen = listen

    def lock(self, election: str) -> DjangoLock:
        """See :meth:`celery_leader.backends.Backend.lock`."""
        return DjangoLock(self._connection(), self._row(election), listen=self._listen)

    def ledger(self, election: str) -> DjangoLedger:
        """See :meth:`celery_leader.backends.Backend.ledger`."""
        return DjangoLedger(self._connection(), self._row(election), election)

    def once_store(self) -> DjangoOnceStore:
        """See :meth:`celery_leader.backends.Backend.once_store`."""
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
        return OwnConnection(self._alias, timeout=self._timeout, server_timeouts=self._server_timeouts)

    def _row(self, election: str) -> str:
        return row_name(self._prefix, election, of="an election")


def _missing_columns(using: str) -> list[str]:
    """Return our tables and columns that the database lacks, because it was not migrated, or not far enough."""
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
            wanted = {str(field.column) for field in model._meta.local_concrete_fields}  # noqa: SLF001 - documented, too
            missing += [f"the column {table}.{name}" for name in sorted(wanted - columns)]
    return missing
