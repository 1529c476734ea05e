"""Programs that instrument Celery see each tick of a leader's beat: the real packages, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.beat.bases.instrumented import ENTRIES, ROUNDS
from tests.servers import RedisServer

pytestmark = [pytest.mark.bases, pytest.mark.timeout(120)]

both_orders = pytest.mark.parametrize("when", ["before", "after"])
EACH_ONCE_A_ROUND = {f"entry {number}": ROUNDS for number in range(ENTRIES)}


def run(*arguments: str) -> dict[str, Any]:
    """Run a beat that a program instruments, and return what it printed; every message must have gone out once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.beat.bases.instrumented", *arguments],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "DD_TRACE_STARTUP_LOGS": "false", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["sent"] == len(set(found["ids of messages"])) == ENTRIES * ROUNDS
    return found


@both_orders
def test_sentry_makes_one_check_in_a_tick(when: str) -> None:
    """Its id travels with the message of that tick, which has a trace of its own; batches stay batches."""
    found = run("sentry", when)
    assert found["ticks"] == EACH_ONCE_A_ROUND
    assert found["kinds"] == {"in_progress": ENTRIES * ROUNDS}
    assert found["check-ins"] == found["ids"]
    assert len({each["sentry-trace"] for each in found["headers"]}) == ENTRIES * ROUNDS
    assert found["claims"] == ROUNDS


@pytest.mark.redis
@both_orders
def test_sentry_makes_one_check_in_a_tick_of_redbeat(when: str, redis_server: RedisServer) -> None:
    """It wraps another method of RedBeat's."""
    url = f"{redis_server.url.removesuffix('0')}8"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    found = run("sentry", when, url)
    assert found["ticks"] == EACH_ONCE_A_ROUND
    assert found["check-ins"] == found["ids"]


@both_orders
def test_datadog_sees_each_tick(when: str) -> None:
    """A span of ``tick`` with one of ``apply_entry`` in it for each message; batches stay batches."""
    found = run("datadog", when)
    assert found["ticks"] == EACH_ONCE_A_ROUND
    assert found["each in a tick of its own"]
    assert found["claims"] == ROUNDS


@both_orders
def test_opentelemetry_sees_each_message(when: str) -> None:
    """A span and a trace for each, which the message carries to its worker."""
    found = run("opentelemetry", when)
    assert found["spans"] == {"apply_async/t.known": ENTRIES * ROUNDS}
    assert found["traces"] == ENTRIES * ROUNDS
    assert found["ids"] == found["ids of messages"]
    assert len({each["traceparent"] for each in found["headers"]}) == ENTRIES * ROUNDS
