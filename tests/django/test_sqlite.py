"""What SQLite does not promise by itself: that of many processes which write one file each has its turn."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest
from django.db import connections

from celery_leader.testing import sample_claim, sample_record
from celery_leader.testing.contests import contest
from tests.databases import database
from tests.django.elsewhere import STEPS, contend, make_there

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROCESSES = 4
TIMEOUT = 5.0


@pytest.fixture(params=["delete", "wal"])
def file_alias(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A file with either kind of journal; which, the file itself remembers."""
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
    with database(f"sqlite_{request.param}", entry) as alias:
        with connections[alias].cursor() as cursor:
            cursor.execute(f"PRAGMA journal_mode = {request.param}")
            assert cursor.fetchone() == (request.param,)
        yield alias


def test_four_processes_share_a_file(file_alias: str) -> None:
    """They take over, renew and claim as fast as they can: nothing is lost or done twice, no call fails or lasts."""
    make = partial(make_there, file_alias, connections.settings[file_alias], "", timeout=TIMEOUT)
    with closing(make("lock", "default")) as lock:
        lock.create(sample_record(leader_transitions=0, fencing_token=1))
    with closing(make("ledger", "default")) as ledger:
        ledger.open(1)
        played = contest(contend, make, make, processes=PROCESSES)
        assert sorted(step for steps, _, _ in played for step in steps) == list(range(1, STEPS + 1))
        assert sorted(tick for _, ticks, _ in played for tick in ticks) == list(range(STEPS))
        assert max(worst for _, _, worst in played) < TIMEOUT
        assert ledger.open(1)["tick"].tick == sample_claim(second=STEPS - 1).tick
