"""``celery -A proj leader status``: read by people, by programs and by probes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import redis
from celery import Celery
from click.testing import CliRunner, Result

import celery_leader
from celery_leader.backends import open_backend
from celery_leader.cli import _problem_of_beat, _watched_state, leader
from celery_leader.election import ElectionState, Lock, StoredRecord, SystemClock
from celery_leader.election.limits import LONGEST
from celery_leader.exceptions import LeadershipLost, RecordNotFound
from celery_leader.settings import LeaderSettings
from celery_leader.testing import ScriptedLock, sample_record
from tests.databases import database
from tests.servers.processes import free_port

if TYPE_CHECKING:
    from tests.servers import RedisServer

pytestmark = pytest.mark.redis


class Context:
    """What Celery's command line hands to its sub-commands."""

    def __init__(self, app: Celery) -> None:
        self.app = app


@pytest.fixture
def app(request: pytest.FixtureRequest, redis_server: RedisServer) -> Celery:
    """An app whose elections are kept under keys of this test."""
    app = Celery("proj", broker=redis_server.url, set_as_current=False)
    app.conf.update(
        leader_backend=redis_server.url,
        leader_key_prefix=request.node.nodeid,
        leader_elections=["default", "reports"],
    )
    return celery_leader.setup(app)


def status(app: Celery, *options: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(leader, ["status", *options], obj=Context(app))


def lock_of(app: Celery, election: str) -> Lock:
    """Return the place of the record of *election*."""
    return open_backend(app.conf.leader_backend, prefix=app.conf.leader_key_prefix).lock(election)


def test_before_the_first_election_all_are_vacant(app: Celery) -> None:
    """Each configured election has its line."""
    lines = status(app).stdout.splitlines()
    assert lines[0].split() == ["NAME", "HOLDER", "STATE", "TOKEN", "RENEWED", "TRANSITIONS"]
    assert lines[1].split() == ["default", "-", "vacant", "-", "-", "0"]
    assert [line.split()[0] for line in lines[1:]] == ["default", "reports"]


def test_a_wrong_setting_is_an_object_too(app: Celery) -> None:
    """With the error that people are shown; a program that reads nothing can't tell what is wrong."""
    app.conf.leader_backend = "memory://"
    result = status(app, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["elections"] == []
    assert json.loads(result.stdout)["error"] in result.stderr


def test_a_leader_is_shown(app: Celery) -> None:
    """Who, since when, in which term."""
    now = SystemClock().utcnow()
    lock_of(app, "reports").create(sample_record(renew_time=now))
    report = json.loads(status(app, "--json").stdout)
    assert report["backend"] == app.conf.leader_backend
    assert report["elections"][1] == {
        "name": "reports",
        "state": "leading",
        "problem": None,
        "holder": "celery@web-1/4121/9f3c2a10",
        "fencing_token": 1_795_400_000_123,
        "acquire_time": sample_record().acquire_time.isoformat(),  # type: ignore[union-attr]
        "renew_time": now.isoformat(),
        "lease_duration": 15.0,
        "leader_transitions": 3,
    }
    assert re.search(r" \d\.\d s ago ", status(app).stdout)


def test_a_record_that_nobody_renews_has_expired(app: Celery) -> None:
    """It names a holder that is gone."""
    lock_of(app, "default").create(sample_record())
    assert json.loads(status(app, "--json").stdout)["elections"][0]["state"] == "expired"


def test_probes_go_by_the_exit_status(app: Celery) -> None:
    """0 only when every election is led."""
    assert status(app, "--check").exit_code == 1
    for election in ("default", "reports"):
        lock_of(app, election).create(replace(sample_record(), renew_time=SystemClock().utcnow()))
    assert status(app, "--check").exit_code == 0


def test_a_leader_that_is_late_still_leads(app: Celery) -> None:
    """As the admin says: its record was not renewed for two thirds of its lease. A probe may wait for the rest."""
    app.conf.leader_elections = ["default"]
    renewed = SystemClock().utcnow() - timedelta(seconds=12)
    lock_of(app, "default").create(sample_record(renew_time=renewed))
    assert json.loads(status(app, "--json").stdout)["elections"][0]["state"] == "late"
    assert re.search(r" late .* 1[2-4](\.\d)? s ago ", status(app).stdout)
    assert status(app, "--check").exit_code == 0


FAST = {"leader_lease_duration": 0.6, "leader_renew_deadline": 0.4, "leader_retry_period": 0.1}


@pytest.mark.parametrize(
    "changes",
    [
        {"renew_time": None},
        {"renew_time": datetime(2901, 1, 1, tzinfo=timezone.utc)},
        {"renew_time": datetime.now(timezone.utc) - timedelta(hours=1), "lease_duration": LONGEST},
    ],
    ids=["never", "in the year 2901", "an hour ago, for ten years"],
)
def test_a_record_whose_time_says_nothing_is_watched(app: Celery, changes: dict[str, Any]) -> None:
    """The holder may be dead. Only one who renews leads, whatever its clock says."""
    app.conf.update(FAST, leader_elections=["default"])
    lock = lock_of(app, "default")
    stored = lock.create(sample_record(**changes))
    result = status(app, "--check")
    assert result.exit_code == 1
    assert "expired" in result.stdout
    renews, ended = threading.Event(), threading.Event()

    def renew() -> None:
        nonlocal stored
        while not ended.wait(0.02):
            stored = lock.update(stored.record, stored)
            renews.set()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        assert renews.wait(10)
        assert status(app, "--check").exit_code == 0
    finally:
        ended.set()
        thread.join()


def test_a_record_is_watched_at_the_pace_of_a_candidate(app: Celery) -> None:
    """Four looks a retry period, as long as a lease lasts: a probe must not be a load on the store."""
    app.conf.update(FAST)
    lock = lock_of(app, "default")
    lock.create(sample_record(renew_time=None))
    config = LeaderSettings.from_app(app).election("default", identity="status")
    with mock.patch.object(lock, "get", wraps=lock.get) as get:
        assert _watched_state(lock, config) is ElectionState.EXPIRED
    assert 4 <= get.call_count <= 0.6 / 0.1 * 4 + 1


def test_a_lease_of_years_does_not_outlast_its_time(app: Celery) -> None:
    """Renewed in 2001 for ten years."""
    lock = lock_of(app, "default")
    lock.create(sample_record(renew_time=datetime(2001, 1, 1, tzinfo=timezone.utc), lease_duration=LONGEST))
    result = status(app, "--check")
    assert result.exit_code == 1
    assert "expired" in result.stdout


def test_a_beat_that_its_ledger_keeps_from_sending_is_said(app: Celery) -> None:
    """Its token is higher than any term's: who leads sends nothing. The cure that is printed cures."""
    app.conf.update(leader_beat=True, leader_elections=["default"])
    backend = open_backend(app.conf.leader_backend, prefix=app.conf.leader_key_prefix)
    record = sample_record(renew_time=SystemClock().utcnow())
    backend.lock("default").create(record)
    assert status(app, "--check").exit_code == 0
    ledger = backend.ledger("default")
    ledger.open(record.fencing_token)
    assert status(app, "--check").exit_code == 0
    ledger.open(2**53 - 1)
    result = status(app, "--check")
    assert result.exit_code == 1
    assert "the beat of this leader sends nothing" in result.stdout
    assert json.loads(status(app, "--json").stdout)["elections"][0]["problem"] in result.stdout
    cure = shlex.split(result.stdout.rpartition("The cure: redis-cli ")[2])
    with redis.Redis.from_url(app.conf.leader_backend) as client:
        assert client.execute_command(*cure) == 1
    assert status(app, "--check").exit_code == 0


@pytest.mark.parametrize(
    ("election", "changes"),
    [("reports", {}), ("default", {"holder_identity": ""}), ("default", {"renew_time": None})],
    ids=["no beat's", "vacant", "expired"],
)
def test_only_the_ledger_of_a_beat_that_leads_is_asked(app: Celery, election: str, changes: dict[str, Any]) -> None:
    """What another ledger holds keeps nobody from sending."""
    app.conf.update(FAST, leader_beat=True)
    backend = open_backend(app.conf.leader_backend, prefix=app.conf.leader_key_prefix)
    backend.lock(election).create(sample_record(**{"renew_time": SystemClock().utcnow(), **changes}))
    backend.ledger(election).open(2**53 - 1)
    assert {each["name"]: each["problem"] for each in json.loads(status(app, "--json").stdout)["elections"]} == {
        "default": None, "reports": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "is_a_problem"),
    [
        (StoredRecord(sample_record(fencing_token=7), 1), True),
        (StoredRecord(sample_record(fencing_token=8), 1), False),
        (RecordNotFound(), False),
    ],
    ids=["the same leader", "the next leader", "no record"],
)
def test_a_leader_that_was_just_deposed_is_no_problem(answer: Any, is_a_problem: bool) -> None:
    """Its ledger has the token of the next one, whose record is there by now."""
    ledger = mock.Mock()
    ledger.confirm.side_effect = LeadershipLost("a newer token", cure="a cure")
    problem = _problem_of_beat(ledger, ScriptedLock([("get", answer)]), 7)
    assert (problem is not None) is is_a_problem
    ledger.close.assert_called_once()


def test_a_damaged_record_or_ledger_is_one_sentence(app: Celery) -> None:
    """With its cure, and no traceback."""
    app.conf.update(leader_beat=True, leader_elections=["default"])
    record, ledger = (f"{app.conf.leader_key_prefix}:{{default}}:{name}" for name in ("record", "ledger"))
    with redis.Redis.from_url(app.conf.leader_backend) as client:
        for value in (
            b"\xff",
            b"[" * 60_000,
            b'{"holder_identity": "\\ud800", "lease_duration": 1, "fencing_token": 1}',
        ):
            client.set(record, value)
            result = status(app)
            assert result.exit_code == 69
            assert result.stderr.startswith("Error: ")
            assert "redis-cli DEL" in result.stderr
            assert len(result.stderr) < 800
        client.delete(record)
        lock_of(app, "default").create(sample_record(renew_time=SystemClock().utcnow()))
        client.hset(ledger, "token", "9" * 100_000)
        result = status(app, "--check")
        assert result.exit_code == 1
        assert "redis-cli HDEL" in result.stdout
        assert len(result.stdout) < 1500


def test_nothing_of_a_store_is_printed_as_it_is(app: Celery) -> None:
    """No colours, titles, line breaks, directions of writing; nothing longer than a line."""
    hostile = "\x1b[31m\x1b]0;title\x07\ncelery@web-1\u202e\0" + "x" * 1000
    lock_of(app, "default").create(sample_record(holder_identity=hostile))
    table = status(app).stdout
    assert all(line.isprintable() for line in table.splitlines())
    assert len(table.splitlines()) == 3
    assert max(map(len, table.splitlines())) < 400
    assert json.loads(status(app, "--json").stdout)["elections"][0]["holder"] == hostile


def test_a_store_that_does_not_answer_is_said(app: Celery) -> None:
    """With Celery's status for a service that is away; programs get it as JSON."""
    app.conf.leader_backend = url = f"redis://127.0.0.1:{free_port()}/0"
    for options in ((), ("--json",), ("--check",)):
        result = status(app, *options)
        assert result.exit_code == 69
        assert result.stderr.startswith(f"Error: {url} did not answer")
    report = json.loads(status(app, "--json").stdout)
    assert report["elections"] == []
    assert report["error"].startswith(f"{url} did not answer")


def test_a_database_that_was_not_migrated_gets_the_cure(app: Celery, tmp_path: Path, django_db_blocker: Any) -> None:
    """Not the database's own words."""
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "new.sqlite3")}
    with django_db_blocker.unblock(), database("unmigrated", entry, migrate=False):
        app.conf.leader_backend = "django-db://unmigrated"
        result = status(app)
    assert result.exit_code == 1
    assert "Run: manage.py migrate celery_leader --database unmigrated" in result.stderr


def test_memory_can_not_be_looked_into(app: Celery) -> None:
    """Each worker has its own: "vacant" would be a lie."""
    app.conf.leader_backend = "memory://"
    result = status(app)
    assert result.exit_code == 1
    assert "celery -A … inspect leader_status" in result.stderr


def test_an_app_that_was_not_set_up_is_said(redis_server: RedisServer) -> None:
    """Its elections are vacant for ever."""
    app = Celery("forgotten", broker=redis_server.url, set_as_current=False)
    app.conf.leader_backend = redis_server.url
    result = status(app)
    assert "vacant" in result.stdout
    assert result.stderr.startswith("Warning: celery_leader.setup(app) was not called")


def test_a_wrong_setting_is_one_sentence(app: Celery) -> None:
    """No traceback."""
    app.conf.leader_lease = 5
    result = status(app)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Unknown setting leader_lease.")


def test_the_command_belongs_to_celery(tmp_path: Path, redis_server: RedisServer) -> None:
    """Installed, ``celery -A proj leader status`` is found by its entry point."""
    (tmp_path / "proj.py").write_text(
        "import celery\nimport celery_leader\napp = celery.Celery('proj')\n"
        f"app.conf.leader_backend = {redis_server.url!r}\ncelery_leader.setup(app)\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "proj", "leader", "status"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "default" in result.stdout
