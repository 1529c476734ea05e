"""Two leaders on tenant-schemas-celery's scheduler: ``python -m tests.beat.bases.tenants '{"HOST": …}'``.

The first leader's broker fails at the second tenant's message, and the second leader sends the run again. Prints as
JSON the tenants and the ids of all messages, and how many runs were claimed.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

import django
from django.conf import settings
from kombu.exceptions import OperationalError

TENANTS = ("acme", "bolt", "corp")


def prepare(database: dict[str, Any]) -> None:
    """Set Django up on an empty PostgreSQL, and create the tenants."""
    apps = ["django_tenants", "django.contrib.contenttypes", "tests.beat.bases.tenanted"]
    settings.configure(
        DATABASES={"default": {**database, "ENGINE": "django_tenants.postgresql_backend"}},
        DATABASE_ROUTERS=["django_tenants.routers.TenantSyncRouter"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=apps,
        SHARED_APPS=apps,
        TENANT_APPS=["tests.beat.bases.tenanted"],
        TENANT_MODEL="tenanted.Tenant",
        TENANT_DOMAIN_MODEL="tenanted.Domain",
    )
    django.setup()
    from django.db import connection
    from django_tenants.utils import get_tenant_model

    with connection.schema_editor() as editor:
        editor.create_model(get_tenant_model())
    for name in TENANTS:
        get_tenant_model().objects.create(schema_name=name)


def main(database: str) -> None:
    """Let one leader fail within a run, and the next one send it."""
    prepare(json.loads(database))
    from tenant_schemas_celery.app import CeleryApp

    from tests.beat import machines as module

    machines = module.Machines(store="memory://tenants")
    machines.schedule = {"ten": {"task": "t.ten", "schedule": 10.0}}
    sent: list[list[tuple[str, str]]] = []

    def lead() -> Any:
        with mock.patch.object(module, "Celery", CeleryApp):
            return machines.leader("tenant_schemas_celery.scheduler:TenantAwareScheduler")

    def take() -> None:
        sent.append([(each["_schema_name"], each["id"]) for each in machines.sent()])

    first = lead()
    machines.wall.advance(10)
    send_task, calls = first.scheduler.app.send_task, iter(range(100))

    def fail_at_the_second(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 1:
            raise OperationalError("[Errno 111] Connection refused")
        return send_task(*args, **kwargs)

    with mock.patch.object(first.scheduler.app, "send_task", fail_at_the_second):
        first.scheduler.tick()
    take()
    lead()
    take()
    print(json.dumps({"sent": sent, "runs": machines.ledger._claims["ten@__all_tenants_only__"].run_count}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
