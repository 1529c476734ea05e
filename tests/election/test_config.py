"""How one candidate takes part: what is possible, and what is told about what isn't."""

from __future__ import annotations

import math
import os
import socket
from typing import Any

import pytest

from celery_leader.election import ElectionConfig, new_identity
from celery_leader.exceptions import ConfigurationError, LeaderError


def make(**changes: Any) -> ElectionConfig:
    return ElectionConfig(**{"name": "default", "identity": "me", **changes})


def test_defaults_are_those_of_client_go() -> None:
    """15, 10, 2 and 1.2 (CF1)."""
    config = make()
    durations = config.lease_duration, config.renew_deadline, config.retry_period, config.jitter_factor
    assert durations == (15, 10, 2, 1.2)
    assert config.release_on_cancel


@pytest.mark.parametrize(
    "changes",
    [
        {"lease_duration": 10.001},
        {"renew_deadline": 2.4001},
        {"lease_duration": 1, "renew_deadline": 0.5, "retry_period": 0.1},
        {"lease_duration": 15, "renew_deadline": 10, "retry_period": 2},
        {"jitter_factor": 0.01},
    ],
)
def test_what_is_possible_is_accepted(changes: dict[str, Any]) -> None:
    """Just beyond each boundary, small values, whole numbers."""
    make(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"identity": ""}, "identity"),
        ({"identity": None}, "identity"),
        ({"identity": 7}, "identity must be text of 1 to 2000 characters of UTF-8, got 7"),
        ({"name": ""}, "name"),
        ({"lease_duration": 10}, "lease_duration must be longer than renew_deadline, got 10 s and 10 s"),
        ({"renew_deadline": 2.4}, "renew_deadline must be longer than jitter_factor × retry_period"),
        ({"retry_period": 0}, "retry_period must be a positive number, 316224000 (ten years) at most, got 0"),
        ({"retry_period": -1}, "got -1"),
        ({"lease_duration": math.inf}, "got inf"),
        ({"renew_deadline": math.nan}, "got nan"),
        ({"jitter_factor": 0}, "jitter_factor"),
        ({"lease_duration": "15"}, "got '15'"),
        ({"lease_duration": True}, "got True"),
        ({"lease_duration": None}, "got None"),
    ],
)
def test_what_is_impossible_is_refused(changes: dict[str, Any], told: str) -> None:
    """At each boundary, with the rule and the values (CF2)."""
    with pytest.raises(ConfigurationError) as caught:
        make(**changes)
    assert told in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LeaderError)


def test_all_problems_are_told_at_once() -> None:
    """Nobody mends one to meet the next."""
    with pytest.raises(ConfigurationError) as caught:
        make(name="", identity="", lease_duration=1, renew_deadline=1, retry_period=1)
    for word in ("name must", "identity must", "lease_duration must", "renew_deadline must"):
        assert word in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        make(identity="", lease_duration=0, retry_period=-1)
    for word in ("identity must", "lease_duration must", "retry_period must"):
        assert word in str(caught.value)


def test_identity_is_new_each_time_and_names_node_and_process() -> None:
    """Two workers of one host, and two lives of one worker, are different candidates (M7)."""
    one, other = new_identity("celery@web-1"), new_identity("celery@web-1")
    assert one != other
    assert one.startswith(f"celery@web-1/{os.getpid()}/")
    assert new_identity().startswith(f"{socket.gethostname()}/{os.getpid()}/")
