"""The example's folder broker keeps what it was given, whoever dies."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kombu import Connection

FILE = Path(__file__).parents[2] / "example_project/proj/broker.py"


@pytest.fixture
def broker() -> ModuleType:
    """The module, without the Django project around it; anew for each test, for it remembers this process's folder."""
    spec = importlib.util.spec_from_file_location("example_broker", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.Transport.global_state.clear()  # kombu remembers what was bound, whatever the folder
    return module


@pytest.fixture
def connect(broker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make connections to one folder."""
    folders = {"data_folder_in": "messages", "data_folder_out": "messages", "processed_folder": "taken"}
    options = {name: str(tmp_path / folder) for name, folder in {**folders, "control_folder": "bindings"}.items()}
    for folder in set(options.values()):
        Path(folder).mkdir()
    monkeypatch.setattr(broker, "LOOK_FOR_DEAD", 0.0)
    return lambda: Connection(transport=broker.Transport, transport_options=options)


def take(connection: Connection) -> Any:
    """Take a message without acknowledging it; None when there is none."""
    return connection.default_channel.basic_get("work")


def put(connection: Connection, text: str) -> None:
    """Send a message."""
    queue = connection.SimpleQueue("work")
    queue.put(text)


def test_what_a_dead_process_had_taken_is_delivered_again(connect: Any) -> None:
    """Once, and marked as such."""
    with connect() as connection:
        put(connection, "x")
    if not (pid := os.fork()):
        with connect() as other:
            os._exit(0 if take(other) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with connect() as connection:
        assert take(connection) is None  # it looks for the dead when there is nothing else
        message = take(connection)
        assert message.payload == "x"
        assert message.delivery_info["redelivered"]
        message.ack()
        assert take(connection) is None


def test_what_a_living_process_holds_is_left_to_it(connect: Any) -> None:
    """Until it acknowledges it, or gives it back."""
    with connect() as connection:
        put(connection, "x")
        message = take(connection)
        if not (pid := os.fork()):
            with connect() as other:
                take(other)
                os._exit(1 if take(other) else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        message.requeue()
        again = take(connection)
        assert again.payload == "x"
        again.ack()
        assert take(connection) is None


def test_a_killed_process_holds_nothing(connect: Any) -> None:
    """SIGKILL leaves no time to give anything back."""
    with connect() as connection:
        put(connection, "x")
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        signal.alarm(60)  # should the test fail before it kills this
        other = connect()
        os.write(writer, b"y" if take(other) else b"n")
        signal.pause()
    assert os.read(reader, 1) == b"y"
    with connect() as connection:
        assert take(connection) is None
        assert take(connection) is None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert take(connection) is None
        assert take(connection).payload == "x"
    os.close(reader)
    os.close(writer)
