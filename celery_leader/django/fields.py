"""Columns that mean the same in every database and under all settings of a project."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from django.db import models

from celery_leader.election.limits import EARLIEST, LATEST

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models.sql.compiler import SQLCompiler

    # At run time these classes take no parameters.
    CharField = models.CharField[str, str]
    DateTimeField = models.DateTimeField[Any, Any]
else:
    CharField = models.CharField
    DateTimeField = models.DateTimeField


_FIRST, _LAST = (f"{limit:%Y-%m-%d %H:%M:%S}" for limit in (EARLIEST, LATEST))
#: By database: the condition that a column holds a time that Python can read.
_IN_REACH = {
    "postgresql": f"{{}} BETWEEN TIMESTAMPTZ '{_FIRST}+00' AND TIMESTAMPTZ '{_LAST}+00'",
    "mysql": f"{{}} BETWEEN '{_FIRST}' AND '{_LAST}'",
    # DATE() knows how many days a month has.
    "sqlite": f"{{}} BETWEEN '{_FIRST}' AND '{_LAST}' AND DATE({{}}, '+0 days') = SUBSTR({{}}, 1, 10)",
}


class ExactCharField(CharField):
    """Text that is compared byte by byte. MySQL's default takes "Tick" and "tick" for equal."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        """Set the collation on MySQL and MariaDB; other databases compare byte by byte by default."""
        parameters = super().db_parameters(connection)
        if connection.vendor == "mysql":
            parameters["collation"] = "utf8mb4_bin"
        return parameters


class UtcDateTimeField(DateTimeField):
    """A moment, to the microsecond: aware and in UTC in Python, UTC in the database.

    Django's own field follows ``USE_TZ``, ``TIME_ZONE`` and the alias's ``TIME_ZONE``. With some of them it writes
    local times, which are ambiguous for one hour of each year. This field reads a value that no date can hold as None.
    """

    def select_format(self, compiler: SQLCompiler, sql: str, params: Any) -> Any:
        """Read as NULL what no date can hold: infinity, years before Christ, zeros, in SQLite any text.

        One such value would make the driver fail on all rows that the query returns.
        """
        condition = _IN_REACH.get(compiler.connection.vendor, "1 = 1")
        return f"CASE WHEN {condition.replace('{}', sql)} THEN {sql} END", [*params] * (condition.count("{}") + 1)

    def get_prep_value(self, value: Any) -> Any:
        """Return the moment *value*, aware: a naive one is in UTC."""
        value = self.to_python(value)
        return value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) and not value.tzinfo else value

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        """Return *value* as the database takes it: aware for PostgreSQL, naive UTC for the others."""
        value = value if prepared else self.get_prep_value(value)
        if not isinstance(value, datetime) or connection.vendor == "postgresql":
            return value
        return str(value.astimezone(timezone.utc).replace(tzinfo=None))

    def from_db_value(
        self, value: datetime | None, expression: object, connection: BaseDatabaseWrapper
    ) -> datetime | None:
        """Return the moment that the database holds, whatever time zone Django has read it in."""
        if value is None or connection.vendor != "postgresql":
            return value and value.replace(tzinfo=timezone.utc)
        if value.tzinfo is None:
            value = value.replace(tzinfo=ZoneInfo(connection.timezone_name))
        return value.astimezone(timezone.utc)


class DatabaseNow(models.Func):
    """The database's clock at the moment the statement runs.

    Not ``Now()``: on MySQL that is the session's local time, which Django reads as UTC; on PostgreSQL it stands still
    in a transaction.
    """

    arity = 0

    def __init__(self) -> None:
        """Take no argument."""
        super().__init__(output_field=UtcDateTimeField())

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        """Return PostgreSQL's clock."""
        return self.as_sql(compiler, connection, template="CLOCK_TIMESTAMP()", **context)

    def as_mysql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        """Return the clock of MySQL and MariaDB."""
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **context)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        """Return SQLite's clock, to the millisecond."""
        return self.as_sql(
            compiler, connection, template="STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'NOW')", **context
        )
