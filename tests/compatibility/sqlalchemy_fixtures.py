"""The fixtures of sqlalchemy-celery-beat's tests: its source distribution comes without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from celery.contrib.testing.app import TestApp
from sqlalchemy_celery_beat import schedulers


@pytest.fixture
def patching(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a mock in a name's place."""
    return lambda name: monkeypatch.setattr(name, MagicMock())


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An app, and an empty database in the file that the tests name."""
    path = Path("tests/testing.db")
    path.unlink(missing_ok=True)
    monkeypatch.setattr(schedulers.session_manager, "prepared", False)
    with TestApp() as app:
        app.set_current()
        yield app
    path.unlink(missing_ok=True)
