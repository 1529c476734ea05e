"""What ``django-db://`` says when it can't be used, and what its tables are."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connections

from celery_leader.backends import open_backend
from celery_leader.django.models import DeliveredTick, Election, Fence, LedgerTerm, PeriodicRun
from celery_leader.exceptions import ConfigurationError, StoreUnavailable
from tests.databases import database, variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_migrated_database_passes(alias: str, backend_of: Callable[..., Any]) -> None:
    """And checking leaves no connection behind."""
    backend = backend_of(alias)
    backend.check()
    assert backend.describe() == f"django-db://{alias}"


def test_no_alias_is_the_default_one() -> None:
    """``django-db://`` is short for ``django-db://default``."""
    assert open_backend("django-db://").describe() == "django-db://default"


def test_an_unknown_alias_is_refused_at_once() -> None:
    """The message lists those that there are."""
    with pytest.raises(ConfigurationError, match=r"django-db://nowhere .* It has: default"):
        open_backend("django-db://nowhere")


def test_an_unknown_option_is_refused() -> None:
    """The client's options are the alias's."""
    with pytest.raises(ConfigurationError, match="sslmode"):
        open_backend("django-db://default", options={"sslmode": "require"})


def test_an_election_with_an_endless_name_is_refused() -> None:
    """Rather than cut off."""
    with pytest.raises(ConfigurationError, match="256 characters"):
        open_backend("django-db://default", prefix="p").lock("x" * 254)
    open_backend("django-db://default", prefix="p").lock("x" * 253)


def test_a_missing_migration_is_told(tmp_path: Path, backend_of: Callable[..., Any]) -> None:
    """With the command that mends it; calls of the lock are no answers."""
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "new.sqlite3")}
    with database("unmigrated", entry, migrate=False) as alias:
        backend = backend_of(alias)
        cure = "manage.py migrate celery_leader --database unmigrated"
        with pytest.raises(ConfigurationError, match=f"lacks the table celery_leader_election.*{cure}"):
            backend.check()
        with pytest.raises(StoreUnavailable, match="no such table"):
            backend.lock().get()
        call_command("migrate", "celery_leader", database=alias, verbosity=0)
        backend.check()
        with connections[alias].cursor() as cursor:
            cursor.execute("ALTER TABLE celery_leader_election DROP COLUMN renewed_at")
        with pytest.raises(ConfigurationError, match=r"the column celery_leader_election\.renewed_at"):
            backend.check()


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared"])
def test_sqlite_in_memory_is_refused(sqlite_alias: str, backend_of: Callable[..., Any], name: str) -> None:
    """No other process could see it."""
    with variant(sqlite_alias, NAME=name) as alias:
        for call in (backend_of(alias).check, backend_of(alias).lock().get):
            with pytest.raises(ConfigurationError, match=r"in memory.*a file as NAME"):
                call()


def test_a_missing_driver_is_told(sqlite_alias: str, backend_of: Callable[..., Any]) -> None:
    """As configuration, because waiting won't help."""
    with variant(sqlite_alias, ENGINE="django.db.backends.oracle") as alias:
        backend = backend_of(alias)
        with pytest.raises(ConfigurationError, match=rf"{alias}.*oracledb"):
            backend.check()


def run_python(code: str, **environment: str) -> str:
    values = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=values, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


OPEN = """
from celery_leader.backends import open_backend
from celery_leader.exceptions import ConfigurationError
try:
    print(open_backend("django-db://").lock("x").describe())
except ConfigurationError as error:
    print("refused:", error)
"""


def test_django_is_set_up_when_it_was_not() -> None:
    """Settings are enough."""
    assert run_python(OPEN, DJANGO_SETTINGS_MODULE="tests.django_settings") == "django-db://default/x\n"


def test_without_settings_it_says_so() -> None:
    """No traceback of Django's."""
    assert "refused: django-db:// needs Django to be set up" in run_python(OPEN)


def test_without_the_app_it_says_so() -> None:
    """With what to add, and what to run."""
    configured = "from django.conf import settings; settings.configure()\n"
    output = run_python(configured + OPEN)
    assert 'refused: django-db:// needs the app: add "celery_leader.django" to INSTALLED_APPS' in output


class TestTables:
    """The models and their migrations."""

    def test_models_have_no_unwritten_migration(self) -> None:
        """``makemigrations --check`` is clean."""
        call_command("makemigrations", "celery_leader", check=True, dry_run=True, verbosity=0)

    def test_every_model_speaks_of_itself(self) -> None:
        """Names for people, and no integer keys that run out."""
        for model in apps.get_app_config("celery_leader").get_models():
            assert str(model._meta.verbose_name)
            assert model._meta.pk is not None
            assert model._meta.pk.get_internal_type() in {"BigAutoField", "CharField"}

    @pytest.mark.parametrize(
        ("row", "text"),
        [
            (Election(name="proj:default"), "proj:default"),
            (Fence(election="default", token=5), "default: 5"),
            (LedgerTerm(election="default", token=5), "default: 5"),
            (DeliveredTick(tick="a", done=False), "a: claimed"),
            (DeliveredTick(tick="a", done=True), "a: done"),
            (PeriodicRun(entry="a\n", due_at=datetime(2026, 1, 2, 3, 4, 5)), "a\\n @ 2026-01-02 03:04:05"),  # noqa: DTZ001
            (PeriodicRun(entry="a", due_at=None), "a @ ?"),
        ],
        ids=str,
    )
    def test_every_row_says_what_it_is(self, row: Any, text: str) -> None:
        """In one line."""
        assert str(row) == text

    @pytest.mark.mariadb
    def test_mariadb_keeps_microseconds(self, mariadb_alias: str) -> None:
        """And compares names byte by byte."""
        with connections[mariadb_alias].cursor() as cursor:
            cursor.execute(
                "SELECT table_name, column_name, column_type, collation_name FROM information_schema.columns "
                "WHERE table_schema = database() AND table_name LIKE 'celery_leader_%%'"
            )
            columns = {f"{table}.{name}": (kind, collation) for table, name, kind, collation in cursor.fetchall()}
        assert {kind for kind, _ in columns.values() if kind.startswith("datetime")} == {"datetime(6)"}
        assert columns["celery_leader_periodicrun.entry"] == ("varchar(500)", "utf8mb4_bin")
        assert columns["celery_leader_election.name"][1] == "utf8mb4_bin"

    def test_one_row_an_entry(self, alias: str) -> None:
        """The database itself refuses a second one."""
        names = [constraint.name for constraint in PeriodicRun._meta.constraints]
        with connections[alias].cursor() as cursor:
            found = connections[alias].introspection.get_constraints(cursor, PeriodicRun._meta.db_table)
        assert found[names[0]]["unique"]
        assert found[names[0]]["columns"] == ["election", "entry"]

    def test_naive_times_are_utc(self, alias: str) -> None:
        """What somebody writes in a shell is not shifted by the project's time zone."""
        Election.objects.using(alias).create(name="x", version="1", renew_time="2026-01-02 03:04:05.000006")
        text = Election.objects.using(alias).get().renew_time.isoformat()
        assert text == "2026-01-02T03:04:05.000006+00:00"
