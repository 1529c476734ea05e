"""What our columns make of values on their way, without a server."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celery_leader.django.fields import DatabaseNow, ExactCharField, UtcDateTimeField

MOMENT = datetime(2026, 10, 25, 0, 30, 0, 6, tzinfo=timezone.utc)  # 02:30 in Berlin, for the first time
NAIVE = MOMENT.replace(tzinfo=None)
BERLIN = ZoneInfo("Europe/Berlin")


def connection(vendor: str, timezone_name: str = "Europe/Berlin") -> Any:
    """A connection that is asked for no more than this."""
    return SimpleNamespace(
        vendor=vendor,
        timezone_name=timezone_name,
        data_types={"CharField": "varchar(%(max_length)s)"},
        data_type_check_constraints={},
        ops=SimpleNamespace(quote_name=str, check_expression_support=bool),
    )


@pytest.mark.parametrize("value", [MOMENT, NAIVE, MOMENT.astimezone(BERLIN), str(NAIVE)], ids=str)
def test_moments_are_written_in_utc(value: Any) -> None:
    """A naive one is in UTC already, whatever TIME_ZONE is. PostgreSQL takes zones, the others do not."""
    field = UtcDateTimeField()
    aware = field.get_db_prep_value(value, connection("postgresql"))
    assert aware.tzinfo
    assert aware.astimezone(timezone.utc) == MOMENT
    for vendor in ("mysql", "sqlite"):
        assert field.get_db_prep_value(value, connection(vendor)) == "2026-10-25 00:30:00.000006"


def test_no_moment_is_written_as_none() -> None:
    """And an expression, the database's clock, as it is."""
    field = UtcDateTimeField()
    now = DatabaseNow()
    for vendor in ("postgresql", "mysql", "sqlite"):
        assert field.get_db_prep_value(None, connection(vendor)) is None
        assert field.get_db_prep_value(now, connection(vendor), prepared=True) is now


@pytest.mark.parametrize(
    ("vendor", "value"),
    [
        ("sqlite", NAIVE),
        ("mysql", NAIVE),
        ("mysql", NAIVE.replace(tzinfo=BERLIN)),  # what Django makes of UTC with USE_TZ and a zone of the alias
        ("postgresql", MOMENT.astimezone(BERLIN)),
        ("postgresql", MOMENT.astimezone(BERLIN).replace(tzinfo=None)),  # what Django makes of it without USE_TZ
    ],
)
def test_moments_are_read_in_utc(vendor: str, value: datetime) -> None:
    """Whatever time zone Django has put on them."""
    read = UtcDateTimeField().from_db_value(value, None, connection(vendor))
    assert read == MOMENT
    assert read.utcoffset() == timedelta(0)
    assert UtcDateTimeField().from_db_value(None, None, connection(vendor)) is None


@pytest.mark.parametrize(
    ("vendor", "condition", "columns"),
    [
        ("postgresql", "BETWEEN TIMESTAMPTZ '", 2),
        ("mysql", "BETWEEN '", 2),
        ("sqlite", "DATE(", 4),
        ("oracle", "1 = 1", 1),
    ],
)
def test_what_no_date_can_hold_is_read_as_null(vendor: str, condition: str, columns: int) -> None:
    """By a condition in each database's words, with the parameters of the column as often as it stands there."""
    compiler: Any = SimpleNamespace(connection=connection(vendor))
    sql, parameters = UtcDateTimeField().select_format(compiler, "COLUMN", ["p"])
    assert condition in sql
    assert sql.startswith("CASE WHEN ")
    assert sql.endswith(" THEN COLUMN END")
    assert sql.count("COLUMN") == columns == len(parameters)


@pytest.mark.parametrize(("vendor", "collation"), [("mysql", "utf8mb4_bin"), ("postgresql", None), ("sqlite", None)])
def test_text_is_compared_byte_by_byte(vendor: str, collation: str | None) -> None:
    """MySQL must be told so."""
    parameters = ExactCharField(max_length=9).db_parameters(connection(vendor))
    assert parameters["type"] == "varchar(9)"
    assert parameters.get("collation") == collation


@pytest.mark.parametrize(
    ("vendor", "function"),
    [
        ("postgresql", "CLOCK_TIMESTAMP()"),
        ("mysql", "UTC_TIMESTAMP(6)"),
        ("sqlite", "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW')"),
    ],
)
def test_each_database_has_a_clock_that_moves_in_utc(vendor: str, function: str) -> None:
    """To the microsecond, in SQLite to the millisecond."""
    compiler: Any = None
    sql, parameters = getattr(DatabaseNow(), f"as_{vendor}")(compiler, connection(vendor))
    assert (sql, list(parameters)) == (function, [])
