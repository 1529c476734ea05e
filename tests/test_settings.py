"""The ``leader_*`` settings: what is read, and what stops a worker at its start."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_leader.election.limits import LONGEST
from celery_leader.exceptions import ConfigurationError
from celery_leader.settings import LeaderSettings, queue_name


def settings_of(**conf: Any) -> LeaderSettings:
    """Return the settings of an app configured with *conf*."""
    app = Celery("proj", set_as_current=False)
    app.conf.update({"leader_backend": "memory://", **conf})
    return LeaderSettings.from_app(app)


def test_defaults_are_client_gos() -> None:
    """15, 10 and 2 seconds, one election, release at the end."""
    settings = settings_of()
    assert (settings.lease_duration, settings.renew_deadline, settings.retry_period) == (15, 10, 2)
    assert list(settings.elections) == ["default"]
    assert settings.release_on_cancel
    assert not settings.beat


def test_values_of_the_app_are_read() -> None:
    """Lower-case keys on ``app.conf``."""
    settings = settings_of(leader_lease_duration=30, leader_elections=["default", "reports"], leader_beat=True)
    assert settings.election("reports", identity="me").lease_duration == 30
    assert settings.beat


#: A value for each key, other than its default.
VALUES = {
    "backend": "redis://h",
    "backend_options": {"master_name": "m"},
    "elections": {"a": {"lease_duration": 20.0}, "b": {}},
    "lease_duration": 30.0,
    "renew_deadline": 11.0,
    "retry_period": 3.0,
    "release_on_cancel": False,
    "key_prefix": "x",
    "beat": True,
    "beat_scheduler": "mine:Scheduler",
    "beat_catch_up": "all",
    "beat_catch_up_window": 60.0,
    "tick_retention": 60.0,
    "queue_prefix": "mine.",
    "require_ready": False,
    "eligible": False,
}


def test_each_key_has_a_value_here() -> None:
    """So that none is forgotten below."""
    computed = {"deployment", "leaves_beat_to_others"}
    assert {field.name for field in fields(LeaderSettings)} - computed == VALUES.keys()


@pytest.mark.parametrize("name", VALUES)
def test_each_value_is_read_as_it_was_set(name: str) -> None:
    """And the others keep their defaults."""
    before, after = settings_of(), settings_of(**{f"leader_{name}": VALUES[name]})
    assert getattr(after, name) == VALUES[name] != getattr(before, name)
    others = {field: getattr(after, field) for field in VALUES if field != name}
    assert others == {field: getattr(before, field) for field in others}


@pytest.mark.parametrize("name", VALUES)
def test_each_key_refuses_what_it_can_not_be(name: str) -> None:
    """No object is a setting, and no text is a flag, a number or a mapping. An empty text says nothing."""
    wrong = [object()] if name == "key_prefix" else [object(), ""]
    for value in wrong:
        with pytest.raises(ConfigurationError, match=f"leader_{name} must be"):
            settings_of(**{f"leader_{name}": value})


@pytest.mark.parametrize("name", ["beat_catch_up_window", "tick_retention"])
@pytest.mark.parametrize("value", [0, -1, LONGEST + 1, True])
def test_a_duration_that_is_no_duration_is_refused(name: str, value: float) -> None:
    """Ten years are the most."""
    for fine in (LONGEST, 0.5):
        assert getattr(settings_of(**{f"leader_{name}": fine}), name) == fine
    with pytest.raises(ConfigurationError, match=f"leader_{name} must be a"):
        settings_of(**{f"leader_{name}": value})


def documented_defaults() -> dict[str, str]:
    """Return what docs/reference/settings.md says of each setting's default."""
    text = (Path(__file__).parents[1] / "docs/reference/settings.md").read_text()
    return dict(re.findall(r"^\| `leader_(\w+)` \| `?(.*?)`?(?: \(.*?\))? \|", text, flags=re.MULTILINE))


def test_the_reference_names_each_setting_with_its_default() -> None:
    """Whoever reads it need not read the code."""
    said = documented_defaults()
    assert said.keys() == VALUES.keys()
    in_words = {"backend", "key_prefix"}
    computed = {"elections": '("default",)'}
    for name in VALUES.keys() - in_words:
        default = getattr(settings_of(), name)
        shown = f"{default:g}" if type(default) is float and default < 1e5 else str(default).removesuffix(".0")
        assert said[name] == computed.get(name, shown), name


def test_the_beats_election_is_not_the_workers() -> None:
    """A worker without a beat that won it would keep all beats from sending."""
    with pytest.raises(ConfigurationError, match=r"leader_elections names 'beat'.*Give the workers' another name"):
        settings_of(leader_elections=["default", "beat"])
    assert "beat" in settings_of(leader_elections=["default", "beat"], leader_beat=True).elections


def test_publishers_and_leaders_name_a_queue_alike() -> None:
    """A publisher reads no other setting."""
    app = Celery("proj", set_as_current=False)
    assert queue_name(app, "reports") == "celery-leader.reports"
    app.conf.leader_queue_prefix = "mine."
    assert queue_name(app, "reports") == "mine.reports"


def test_values_of_django_settings_are_read() -> None:
    """Upper-case keys behind the namespace; keys of others that only look alike are left alone."""

    class Settings:
        CELERY_LEADER_BACKEND = "memory://"
        CELERY_LEADER_RETRY_PERIOD = 1
        LEADER_BOARD = "of a game"

    app = Celery("proj", set_as_current=False)
    app.config_from_object(Settings, namespace="CELERY")
    settings = LeaderSettings.from_app(app)
    assert (settings.backend, settings.retry_period) == ("memory://", 1)


def test_an_election_may_have_durations_of_its_own() -> None:
    """A mapping overrides what all share."""
    settings = settings_of(leader_elections={"default": {}, "slow": {"lease_duration": 60}})
    assert settings.election("slow", identity="me").lease_duration == 60
    assert settings.election("default", identity="me").lease_duration == 15


@pytest.mark.parametrize("url", ["sqs://key:secret@", "reddis://localhost"])
def test_settings_are_read_without_the_brokers_driver(url: str) -> None:
    """By ``manage.py check`` in a web server's image, say, which a broker that it can't use must not end."""
    assert settings_of(broker_url=url).deployment == "proj"


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"leader_lease": 15}, ["leader_lease", "leader_lease_duration"]),
        ({"leader_lease_duration": 5}, ["lease_duration must be longer than renew_deadline", "5 s and 10 s"]),
        ({"leader_retry_period": 9}, ["renew_deadline must be longer than jitter_factor", "10 s", "9 s"]),
        ({"leader_lease_duration": float("inf")}, ["lease_duration", "inf"]),
        ({"leader_retry_period": 0}, ["retry_period", "0"]),
        ({"leader_renew_deadline": "10"}, ["leader_renew_deadline", "'10'"]),
        ({"leader_beat": "yes"}, ["leader_beat", "'yes'"]),
        ({"leader_backend": 5}, ["leader_backend", "5"]),
        ({"leader_backend_options": []}, ["leader_backend_options", "mapping"]),
        ({"leader_elections": "default"}, ["leader_elections", "names"]),
        ({"leader_elections": []}, ["leader_elections"]),
        ({"leader_elections": [{"name": "a"}]}, ["leader_elections", "names", "'a'"]),
        ({"leader_elections": [["a"]]}, ["leader_elections", "names"]),
        ({"leader_elections": {1: {}}}, ["leader_elections", "names"]),
        ({"leader_elections": {"a": 5}}, ["leader_elections", "mapping of names", "{'a': 5}"]),
        ({"leader_elections": {"a": {"lease_duration": "20"}}}, ["leader_elections['a']['lease_duration']", "'20'"]),
        ({"leader_elections": {"a": {1: 2, "lease": 1}}}, ["leader_elections['a']", "not 1, lease"]),
        ({"leader_retry_period": 10**400}, ["leader_retry_period", "seconds"]),
        ({"leader_elections": {"a": {"lease": 1}}}, ["leader_elections['a']", "lease"]),
        ({"leader_elections": {"a": {"lease_duration": 1}}}, ["'a'", "1 s and 10 s"]),
    ],
)
def test_what_can_not_work_is_refused(conf: dict[str, Any], said: list[str]) -> None:
    """One message that names the setting, the value and the rule."""
    with pytest.raises(ConfigurationError) as caught:
        settings_of(**conf)
    for words in said:
        assert words in str(caught.value)


def test_all_wrong_settings_are_told_at_once() -> None:
    """Each in a line of its own, as it would be told alone; without the passwords that some may hold."""
    wrong = {"leader_lease": 15, "leader_backend": ["redis://:s3cret@h"], "leader_beat": "yes", "leader_eligible": 1}
    alone = []
    for name, value in wrong.items():
        with pytest.raises(ConfigurationError) as caught:
            settings_of(**{name: value})
        alone.append(str(caught.value))
    with pytest.raises(ConfigurationError) as caught:
        settings_of(**wrong)
    assert str(caught.value).splitlines() == alone
    assert "s3cret" not in str(caught.value)


def test_a_backend_must_be_named_without_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no store to guess."""
    monkeypatch.delitem(sys.modules, "django.conf")
    with pytest.raises(ConfigurationError, match="leader_backend is not set"):
        settings_of(leader_backend=None)


@pytest.mark.parametrize(
    ("installed", "backend"),
    [
        (["celery_leader.django"], "django-db://default"),
        (["shop", "celery_leader.django.apps.LeaderConfig"], "django-db://default"),
        (["shop", "celery_leader.djangofan"], None),
        ([], None),
    ],
)
def test_a_database_is_only_guessed_where_our_app_is(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], backend: str | None
) -> None:
    """Other projects of Django's have no tables of ours."""
    project = SimpleNamespace(configured=True, INSTALLED_APPS=installed)
    monkeypatch.setitem(sys.modules, "django.conf", SimpleNamespace(settings=project))
    if backend:
        assert settings_of(leader_backend=None).backend == backend
        project.configured = False
    with pytest.raises(ConfigurationError, match="leader_backend is not set"):
        settings_of(leader_backend=None)


def test_our_django_app_is_backend_enough() -> None:
    """Installed apps have a database with our tables."""
    assert settings_of(leader_backend=None).backend == "django-db://default"


def test_all_that_is_wrong_with_the_timing_is_told_at_once() -> None:
    """Nobody mends one value to be told of the next."""
    with pytest.raises(ConfigurationError, match=r"lease_duration.*renew_deadline.*;.*jitter_factor"):
        settings_of(leader_lease_duration=1, leader_renew_deadline=1, leader_retry_period=1)


def test_beats_of_their_own_hold_an_election_of_their_own() -> None:
    """A worker without a beat must not win the election that decides who sends."""
    assert settings_of(leader_beat=False).beat_election == "beat"
    assert settings_of(leader_beat=True).beat_election == "default"


def test_one_call_of_the_store_leaves_room_for_a_second() -> None:
    """Half of the shortest renew deadline."""
    assert settings_of(leader_elections={"a": {"renew_deadline": 6}, "b": {}}).io_timeout == 3


def test_deployments_share_a_redis_by_the_apps_name() -> None:
    """An explicit prefix always counts; a database's tables belong to one deployment anyway."""
    assert settings_of(leader_backend="redis://").store_prefix("proj") == "proj"
    assert settings_of(leader_backend="django-db://").store_prefix("proj") == ""
    assert settings_of(leader_backend="django-db://", leader_key_prefix="x").store_prefix("proj") == "x"


def test_a_typing_error_gets_the_name_that_was_meant() -> None:
    """All known names say it only to those who look for it."""
    with pytest.raises(ConfigurationError, match=r"Unknown setting leader_beats\. Did you mean leader_beat\?"):
        settings_of(leader_beats=True)


@pytest.mark.parametrize(
    ("broker", "prefix", "deployment"),
    [
        ("redis://me:secret@broker:6379/3", "", "proj on redis://broker:6379/3"),
        ("amqp://me:secret@broker/vhost", "", "proj on amqp://broker:5672/vhost"),
        ("redis://broker:6379/3", "shop", "proj"),
    ],
)
def test_a_deployment_is_known_by_its_app_and_broker(broker: str, prefix: str, deployment: str) -> None:
    """Without the login; a key prefix that was set says itself which workers belong together."""
    assert settings_of(broker_url=broker, leader_key_prefix=prefix).deployment == deployment


@pytest.mark.parametrize(
    ("conf", "leaves"), [({}, False), ({"leader_beat": False}, True), ({"leader_beat": True}, False)]
)
def test_a_beat_that_is_switched_off_is_not_one_that_was_forgotten(conf: dict[str, bool], leaves: bool) -> None:
    """The first says that something else sends the schedule."""
    assert settings_of(**conf).leaves_beat_to_others is leaves
