"""tenant-schemas-celery's scheduler, which sends a message for each tenant, led by ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.beat.bases.tenants import TENANTS
from tests.servers import PostgresServer

pytestmark = [pytest.mark.bases, pytest.mark.postgres, pytest.mark.xdist_group("postgres"), pytest.mark.timeout(120)]


def test_each_tenant_has_its_message(postgres_server: PostgresServer) -> None:
    """One claim a run; a run that the broker broke off is sent again in full, each message with the id that it had."""
    database = postgres_server.create_database("tenants")
    done = subprocess.run(
        [sys.executable, "-m", "tests.beat.bases.tenants", json.dumps(database)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    first, second = found["sent"]
    assert [tenant for tenant, _ in second] == list(TENANTS)
    assert len({ident for _, ident in second}) == len(TENANTS)
    assert first == second[:1]
    assert found["runs"] == 1
