"""A pytest plugin that runs another package's tests of a scheduler on ours, while it leads.

In each test module every scheduler class is replaced by a leader's of that class, in the module's names and in its test
classes. What is known to differ is expected to fail: see ``differences.toml``. The test session fails when something
else fails, when something on the list passes, and when something on the list is not there.
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tomllib
from celery import Celery, beat
from celery.beat import Scheduler
from celery.schedules import BaseSchedule

from celery_leader.beat.scheduler import leader_scheduler
from celery_leader.leadership.campaign import Campaign, backend_of
from celery_leader.settings import LeaderSettings

LIST = Path(__file__).with_name("differences.toml")
#: No test lasts so long (seconds), because nobody renews.
LONG = {"leader_lease_duration": 900.0, "leader_renew_deadline": 600.0}
_stores = itertools.count()


def make_settings() -> LeaderSettings:
    """Return the settings of an election of its own."""
    app = Celery("settings", set_as_current=False)
    app.conf.update(leader_backend=f"memory://compatibility-{next(_stores)}", leader_beat=True, **LONG)
    return LeaderSettings.from_app(app)


def leading(base: type[Scheduler]) -> type[Scheduler]:
    """Return a class of which each object is a leader's scheduler of *base*, and leads."""

    class AsItsBase(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, base)

    class Leading(leader_scheduler(base), metaclass=AsItsBase):  # type: ignore[misc]  # made at run time
        def __init__(self, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
            app = kwargs["app"] if "app" in kwargs else args[0]
            settings = make_settings()
            campaign = Campaign(settings, ["default"], backend=backend_of(settings, app.main), nodename="leader@test")
            super().__init__(*args, campaign=campaign, **kwargs)
            self._has_schedule = lazy  # installs no entries then
            candidate = campaign.candidates["default"]
            assert candidate.elector.try_acquire_or_renew()
            assert self._takeover.current()

    Leading.__name__ = Leading.__qualname__ = base.__name__
    return Leading


def bind(module: ModuleType) -> None:
    """Let the tests in *module* make leaders."""
    made: dict[type[Scheduler], type[Scheduler]] = {}

    def bound(value: Any) -> Any:
        if inspect.isclass(value) and issubclass(value, Scheduler) and not issubclass(value, beat.PersistentScheduler):
            return made.setdefault(value, leading(value))
        return value

    for name, value in list(vars(module).items()):
        if value is beat:
            setattr(module, name, SimpleNamespace(**{key: bound(each) for key, each in vars(beat).items()}))
        elif inspect.isclass(value) and not issubclass(value, Scheduler):
            for attribute, each in list(vars(value).items()):
                if bound(each) is not each:
                    setattr(value, attribute, bound(each))
        elif bound(value) is not value:
            setattr(module, name, bound(value))


@pytest.fixture(autouse=True)
def restore_schedules(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let each test find the schedules that tests share as the module made them: some change them."""
    shared = [(each, dict(vars(each))) for each in vars(request.module).values() if isinstance(each, BaseSchedule)]
    yield
    for each, before in shared:
        vars(each).clear()
        vars(each).update(before)


def differences(suite: str) -> dict[str, str]:
    """Return the names of the tests of *suite* that fail on ours, each with the reason."""
    listed = tomllib.loads(LIST.read_text())[suite]
    return {test: each["reason"] for each in listed for test in each["tests"]}


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Bind the modules, and expect what is listed to fail."""
    for module in {item.module for item in items}:  # type: ignore[attr-defined]
        bind(module)
    if "COMPATIBILITY_LIST" in os.environ:
        expected = differences(os.environ["COMPATIBILITY_LIST"])
        names = {item.nodeid.partition("::")[2]: item for item in items}
        if missing := expected.keys() - names.keys():
            raise pytest.UsageError(f"{LIST.name} lists tests that there are not: {', '.join(sorted(missing))}")
        for name, reason in expected.items():
            names[name].add_marker(pytest.mark.xfail(reason=reason, strict=True))
