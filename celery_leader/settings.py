"""The ``leader_*`` settings of a Celery app, typed and checked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from celery_leader.election import ElectionConfig
from celery_leader.election.limits import LONGEST, is_number
from celery_leader.exceptions import ConfigurationError

#: The election of application code that names none.
DEFAULT_ELECTION = "default"
#: The election of beats that run as processes of their own; see :attr:`LeaderSettings.beat_election`.
BEAT_ELECTION = "beat"

#: How the beat may treat runs of periodic entries that were due while nobody could send them.
CATCH_UP_POLICIES = ("latest", "skip", "all")

#: The apps for which ``celery_leader.setup`` was called.
apps_set_up: WeakSet[Any] = WeakSet()

_PREFIX = "leader_"
_DURATIONS = ("lease_duration", "renew_deadline", "retry_period")
_OVERRIDES = (*_DURATIONS, "release_on_cancel")


@dataclass(frozen=True)
class LeaderSettings:
    """The settings of an app. Each field but the last two is the setting ``leader_<field>``; durations are in seconds.

    Attributes:
        deployment: The deployment's name: the app's name and its broker. A record that names another deployment shows
            that two of them share one key.
        leaves_beat_to_others: Whether the app sets ``leader_beat = False`` itself: something else sends the schedule.
    """

    backend: str = field(repr=False)  # both may hold a password
    backend_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    elections: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {DEFAULT_ELECTION: {}})
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    release_on_cancel: bool = True
    key_prefix: str = ""
    beat: bool = False
    beat_scheduler: str = "celery.beat:Scheduler"
    beat_catch_up: str = "latest"
    beat_catch_up_window: float = 3600.0
    tick_retention: float = 604_800.0
    queue_prefix: str = "celery-leader."
    require_ready: bool = True
    eligible: bool = True
    deployment: str = ""
    leaves_beat_to_others: bool = False

    @classmethod
    def from_app(cls, app: Any) -> LeaderSettings:
        """Read and check the settings of *app*, a Celery app.

        Raises:
            ConfigurationError: Keys are unknown or values have the wrong type: the message has a line for each. Or a
                timing is impossible, and nothing else is wrong.
        """
        values = leader_values(app.conf)
        settings = cls(
            **_checked({"backend": None, **values}),
            deployment=_deployment(app, has_prefix=bool(values.get("key_prefix"))),
            leaves_beat_to_others=values.get("beat") is False,
        )
        if BEAT_ELECTION in settings.elections and not settings.beat:
            raise ConfigurationError(
                f"leader_elections names {BEAT_ELECTION!r}, the election of beats that run as processes of their own. "
                "Give the workers' another name."
            )
        for election in settings.all_elections:
            settings.election(election, identity="check")
        return settings

    @property
    def beat_election(self) -> str:
        """The election that decides which beat sends.

        With ``leader_beat`` every worker has a beat, and the leader's sends. Without it beats run beside workers that
        have none. Such a worker must not win the election of the beats, so they have an election of their own.
        """
        return DEFAULT_ELECTION if self.beat else BEAT_ELECTION

    @property
    def all_elections(self) -> tuple[str, ...]:
        """The names of all elections, the beats' included."""
        return tuple(dict.fromkeys([*self.elections, self.beat_election]))

    @property
    def io_timeout(self) -> float:
        """How long (seconds) one call of the store may take, so that every election has room for a second try."""
        return min(self.election(name, identity="-").renew_deadline for name in self.all_elections) / 2

    def election(self, name: str, *, identity: str) -> ElectionConfig:
        """Return the part of the candidate *identity* in the election *name*.

        Raises:
            ConfigurationError: The timing is impossible.
        """
        common = {key: getattr(self, key) for key in _OVERRIDES}
        own = self.elections.get(name, {})
        return ElectionConfig(name=name, identity=identity, deployment=self.deployment, **{**common, **own})

    def store_prefix(self, app_name: str | None) -> str:
        """Return the prefix of all names in the store, by which two deployments can share it.

        A database's tables belong to one deployment; in Redis the app's name tells them apart.
        """
        if self.key_prefix or self.backend.startswith("django-db:"):
            return self.key_prefix
        return app_name or ""


def queue_name(app: Any, election: str) -> str:
    """Return the name of the queue that only the leader of *election* consumes.

    Publishers need it too, and no other setting.
    """
    return f"{app.conf.get('leader_queue_prefix', LeaderSettings.queue_prefix)}{election}"


def leader_values(conf: Any) -> dict[str, Any]:
    """Return the values of all ``leader_*`` keys of *conf*, by name without that prefix, unchecked.

    With ``namespace="CELERY"`` the keys of Django's settings read ``CELERY_LEADER_…``.
    """
    conf.get("leader_backend")  # app.conf only stands for the configuration until the first access
    namespace = (getattr(conf, "prefix", "") or "").lower()
    values = {}
    for key in conf:
        name = str(key)
        if namespace and name.lower().startswith(namespace + _PREFIX):
            name = name.lower().removeprefix(namespace)
        if name.startswith(_PREFIX):
            values[name.removeprefix(_PREFIX)] = conf.get(name)
    return values


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked *values*, or raise one error that names every problem."""
    checked: dict[str, Any] = {}
    problems: list[str] = []
    problems += [_unknown(name) for name in sorted(values.keys() - _CHECKS.keys())]
    for name, check in _CHECKS.items():
        try:
            if name in values:
                checked[name] = check(name, values[name])
        except ConfigurationError as error:
            problems.append(str(error))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return checked


def _unknown(name: str) -> str:
    if close := get_close_matches(name, _CHECKS, n=1):
        return f"Unknown setting {_PREFIX}{name}. Did you mean {_PREFIX}{close[0]}?"
    return f"Unknown setting {_PREFIX}{name}. Known are {', '.join(_PREFIX + known for known in sorted(_CHECKS))}."


def _deployment(app: Any, *, has_prefix: bool) -> str:
    """Return the name of *app*, and its broker unless a key prefix already says which workers belong together.

    That helps workers of one deployment which write their broker's address in two ways.
    """
    name = app.main or "an app without a name"
    if has_prefix:
        return str(name)
    try:
        broker = urlsplit(app.connection_for_write().as_uri())
    except Exception:  # noqa: BLE001  # an unknown transport, or a missing driver: only workers need the broker
        return str(name)
    return f"{name} on {broker.scheme}://{broker.netloc.rpartition('@')[2]}{broker.path}"


def _default_backend() -> str:
    """Return the backend of an app that names none: the default database when our Django app is installed."""
    django_conf = sys.modules.get("django.conf")  # no import: Celery alone must do without Django
    settings = getattr(django_conf, "settings", None)
    if settings is not None and settings.configured:
        installed = [str(app) for app in settings.INSTALLED_APPS]
        if any(app == "celery_leader.django" or app.startswith("celery_leader.django.") for app in installed):
            return "django-db://default"
    raise ConfigurationError(
        "leader_backend is not set. Name the store of the election, for example "
        'app.conf.leader_backend = "redis://localhost:6379/0", or add "celery_leader.django" to INSTALLED_APPS '
        "to keep it in the default database."
    )


def _wrong(name: str, value: object, expected: str) -> ConfigurationError:
    may_hold_a_password = name in {"backend", "backend_options"} and not isinstance(value, (int, float))
    shown = type(value).__name__ if may_hold_a_password else repr(value)
    return ConfigurationError(f"leader_{name} must be {expected}, got {shown}.")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or (not value and name != "key_prefix"):
        raise _wrong(name, value, "text")
    return value


def _backend(name: str, value: object) -> str:
    return _default_backend() if value is None else _text(name, value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _seconds(name: str, value: object) -> float:
    if not is_number(value):
        raise _wrong(name, value, "a number of seconds")
    try:
        return float(value)
    except OverflowError:
        raise _wrong(name, value, "a number of seconds, and not a number so large") from None


def _positive_seconds(name: str, value: object) -> float:
    seconds = _seconds(name, value)
    if not 0 < seconds <= LONGEST:
        raise _wrong(name, value, "a positive number of seconds, ten years at most")
    return seconds


def _policy(name: str, value: object) -> str:
    if value not in CATCH_UP_POLICIES:
        raise _wrong(name, value, f"one of {', '.join(CATCH_UP_POLICIES)}")
    return str(value)


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a mapping")
    return dict(value)


def _elections(name: str, value: object) -> Mapping[str, Mapping[str, Any]]:
    expected = "names of elections, or a mapping of names to their own durations"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise _wrong(name, value, expected)
    names = list(value)
    if not names or not all(isinstance(election, str) and election for election in names):
        raise _wrong(name, value, expected)
    elections = dict(value) if isinstance(value, Mapping) else {election: {} for election in names}
    for election, overrides in elections.items():
        if not isinstance(overrides, Mapping):
            raise _wrong(name, value, expected)
        if unknown := sorted(str(key) for key in overrides if key not in _OVERRIDES):
            raise ConfigurationError(
                f"leader_elections[{election!r}] may set {', '.join(_OVERRIDES)}, not {', '.join(unknown)}."
            )
        for key, override in overrides.items():
            _CHECKS[key](f"elections[{election!r}][{key!r}]", override)
    return elections


_CHECKS = {
    "backend": _backend,
    "backend_options": _mapping,
    "elections": _elections,
    **dict.fromkeys(_DURATIONS, _seconds),
    "release_on_cancel": _flag,
    "key_prefix": _text,
    "beat": _flag,
    "beat_scheduler": _text,
    "beat_catch_up": _policy,
    "beat_catch_up_window": _positive_seconds,
    "tick_retention": _positive_seconds,
    "queue_prefix": _text,
    "require_ready": _flag,
    "eligible": _flag,
}
