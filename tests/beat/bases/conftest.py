"""Real databases and a real Redis under the schedulers that ours lead; the wall clock is turned by hand.

These tests need the environments `bases` or `lowest` and `--ds tests.beat.bases.settings`: see scripts/check.py. What
only these have is imported by the tests and fixtures that use it, so that other runs can deselect them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import OperationalError, connection, connections

from tests.beat.machines import Machine, Machines
from tests.servers import PostgresServer


@contextmanager
def _as_default(entry: dict[str, Any]) -> Iterator[None]:
    """Let *entry* be Django's default database."""
    before = connections.settings["default"]
    connections.settings["default"] = connections.configure_settings({"default": dict(entry)})["default"]
    connections["default"].close()
    del connections["default"]
    try:
        yield
    finally:
        connections["default"].close()
        del connections["default"]
        connections.settings["default"] = before


def _migrated(entry: dict[str, Any], blocker: Any) -> dict[str, Any]:
    with blocker.unblock(), _as_default(entry):
        call_command("migrate", verbosity=0)
    return entry


@pytest.fixture(scope="session")
def sqlite_entry(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> dict[str, Any]:
    """A migrated SQLite file."""
    path = tmp_path_factory.mktemp("bases") / "db.sqlite3"
    return _migrated({"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}, django_db_blocker)


@pytest.fixture(scope="session")
def postgres_entry(postgres_server: PostgresServer, django_db_blocker: Any) -> dict[str, Any]:
    """A migrated PostgreSQL database."""
    return _migrated(postgres_server.create_database("bases"), django_db_blocker)


POSTGRES = pytest.param("postgres_entry", marks=[pytest.mark.postgres, pytest.mark.xdist_group("postgres")])
on_postgres = pytest.mark.parametrize("database", [POSTGRES], indirect=True)
on_each_database = pytest.mark.parametrize("database", ["sqlite_entry", POSTGRES], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    """Django's default database, empty, and committed to: an SQLite file unless the test says else."""
    entry = request.getfixturevalue(getattr(request, "param", "sqlite_entry"))
    with django_db_blocker.unblock(), _as_default(entry):
        for app in ("django_celery_beat", "auth"):
            for model in apps.get_app_config(app).get_models():
                model.objects.all().delete()
        yield entry


@pytest.fixture
def dcb(database: dict[str, Any], machines: Machines, monkeypatch: pytest.MonkeyPatch) -> DatabaseMachines:
    """Machines with django-celery-beat's scheduler on one database."""
    from django.utils import timezone
    from django_celery_beat.schedulers import ModelEntry
    from django_celery_beat.tzcrontab import TzAwareCrontab

    monkeypatch.setattr(timezone, "now", lambda: machines.wall.now)
    monkeypatch.setattr(ModelEntry, "_default_now", lambda entry: machines.wall.now.astimezone(entry.app.timezone))
    monkeypatch.setattr(TzAwareCrontab, "nowfunc", lambda crontab: machines.wall.now.astimezone(crontab.tz))
    return DatabaseMachines(machines)


class DatabaseMachines:
    """Machines whose schedule is in a database."""

    def __init__(self, machines: Machines) -> None:
        """Give *machines* that schedule."""
        self.machines = machines
        machines.conf["result_expires"] = None  # or each schedule has an entry of Celery's own

    def machine(self) -> Machine:
        """Start one more."""
        machine = self.machines.add("django_celery_beat.schedulers:DatabaseScheduler")
        machine.scheduler.app.set_current()  # whose clock the entries that the base makes look at
        return machine

    def leader(self) -> Machine:
        """Start one more, which leads instead of whoever led."""
        return self.machines.take_over(self.machine())

    def add(self, name: str, **fields: Any) -> Any:
        """Create an entry as the admin does; every ten seconds unless *fields* say else."""
        from django_celery_beat.models import IntervalSchedule, PeriodicTask

        if not fields.keys() & {"interval", "crontab", "clocked"}:
            fields["interval"], _ = IntervalSchedule.objects.get_or_create(every=10, period=IntervalSchedule.SECONDS)
        return PeriodicTask.objects.create(name=name, task=f"t.{name}", **fields)

    def edit(self, name: str, **fields: Any) -> None:
        """Save an entry as the form of the admin does."""
        row = self.row(name)
        for field, value in fields.items():
            setattr(row, field, value)
        row.save()

    def row(self, name: str) -> Any:
        """Return an entry as it is in the database."""
        from django_celery_beat.models import PeriodicTask

        return PeriodicTask.objects.get(name=name)

    def ran(self, name: str) -> tuple[datetime | None, int]:
        """Return what the admin shows: when the entry ran last, and how often."""
        row = self.row(name)
        return row.last_run_at, row.total_run_count

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of all tables of django-celery-beat."""
        found = {}
        with connection.cursor() as cursor:
            for table in connection.introspection.django_table_names(only_existing=True):
                if table.startswith("django_celery_beat"):
                    cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)} ORDER BY 1")
                    found[table] = cursor.fetchall()
        return found


def names(headers: list[dict[str, Any]]) -> list[str]:
    """Return the tasks of *headers*, without their prefix."""
    return [each["task"].removeprefix("t.") for each in headers]


def crontab(**fields: str) -> Any:
    """Return a crontab in the database."""
    from django_celery_beat.models import CrontabSchedule

    return CrontabSchedule.objects.create(**{"minute": "*", "hour": "*", **fields})


@contextmanager
def no_updates() -> Iterator[None]:
    """Let the database refuse to change periodic tasks, as one does whose disk is full."""

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "last_run_at" in sql:
            raise OperationalError("disk full")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        yield


def dies_before_writing(machine: Machine) -> None:
    """Let *machine* send and confirm, and be gone before the admin's columns are written."""
    with no_updates():
        machine.tick_until_idle()
