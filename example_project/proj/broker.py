"""A broker in a folder that loses no messages, so the example needs no server. Not for production.

The demo kills a worker, and kombu's ``filesystem://`` does not keep a broker's promises then:

* It deletes a message when a worker takes it. A killed worker's unacknowledged messages are gone.
* It writes a message in the folder where workers read, so a worker may take half a message, which ends the worker.
* Two workers that declare the same exchange at once may each see the other's half-written list of queues.

Here a process that takes a message moves it into its own folder, and deletes it on acknowledgement. The process holds
a lock on its folder as long as it lives. A process that gets the lock of another's folder puts the messages in it
back, as a broker does when a connection breaks. Files appear under their names only when they are complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem, virtual

LOOK_FOR_DEAD = 1.0  # seconds
AGAIN = "+"  # ends the name of a message that was delivered before


class QoS(virtual.QoS):
    def ack(self, delivery_tag: str) -> None:
        super().ack(delivery_tag)
        self.channel.forget(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().reject(delivery_tag, requeue)  # puts the message back if *requeue*
        self.channel.forget(delivery_tag)


class Channel(filesystem.Channel):
    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taken: dict[str, Path] = {}  # messages taken and not acknowledged, by delivery tag
        self._not_acknowledged: set[str] = set()  # queues whose messages are never acknowledged
        self._looked_for_dead = 0.0

    @property
    def messages(self) -> Path:
        return Path(self.data_folder_in)

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        name = f"{time.monotonic_ns():020}_{payload['properties']['delivery_tag']}.{queue}.msg"
        _write(self.messages / name, payload)

    def _get(self, queue: str) -> dict[str, Any]:
        for name in sorted(os.listdir(self.messages)):
            if name.partition(".")[2] == f"{queue}.msg":
                taken = _own_folder(Path(self.processed_folder)) / name
                with contextlib.suppress(FileNotFoundError):  # another worker was faster
                    (self.messages / name).rename(taken)
                    return self._open(queue, taken)
        if time.monotonic() - self._looked_for_dead > LOOK_FOR_DEAD:
            self._looked_for_dead = time.monotonic()
            _put_back_from_the_dead(Path(self.processed_folder), self.messages)
        raise Empty

    def _open(self, queue: str, taken: Path) -> dict[str, Any]:
        payload: dict[str, Any] = json.loads(taken.read_bytes())
        properties = payload["properties"]
        properties["delivery_info"]["redelivered"] = taken.name.partition(".")[0].endswith(AGAIN)
        if queue in self._not_acknowledged:
            taken.unlink()
        else:
            self._taken[properties["delivery_tag"]] = taken
        return payload

    def _restore(self, message: Any) -> None:
        if taken := self._taken.pop(message.delivery_tag, None):
            _put_back(taken, self.messages)

    def forget(self, delivery_tag: str) -> None:
        if taken := self._taken.pop(delivery_tag, None):
            taken.unlink(missing_ok=True)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> None:
        if no_ack:
            self._not_acknowledged.add(queue)
        super().basic_consume(queue, no_ack, *args, **kwargs)

    def _queue_bind(self, exchange: str, *args: Any) -> None:
        bindings = Path(self.control_folder) / f"{exchange}.exchange"
        if not bindings.exists():
            _write(bindings, [], replace=False)  # kombu changes an existing list safely, under a lock
        super()._queue_bind(exchange, *args)


class Transport(filesystem.Transport):
    Channel = Channel


def _write(path: Path, value: Any, *, replace: bool = True) -> None:
    """Create *path* with its whole content at once."""
    part = path.parent / f".{uuid.uuid4().hex}"
    part.write_text(json.dumps(value))
    if replace:
        part.rename(path)
        return
    with contextlib.suppress(FileExistsError):
        os.link(part, path)
    part.unlink()


def _put_back(taken: Path, messages: Path) -> None:
    number_and_tag, dot, rest = taken.name.partition(".")
    taken.rename(messages / f"{number_and_tag.rstrip(AGAIN)}{AGAIN}{dot}{rest}")


# -- folders of processes ---------------------------------------------------------------------------------------------

_own: dict[int, tuple[int, Path]] = {}  # by process: the descriptor that holds the lock, and the folder


def _own_folder(parent: Path) -> Path:
    """Return the folder of messages that this process has taken, locked as long as the process lives."""
    process = os.getpid()
    if process not in _own:
        name = f"{process}-{uuid.uuid4().hex[:8]}"
        hidden = parent / f".{name}"  # until it is locked: other processes clear away unlocked folders
        hidden.mkdir()
        descriptor = os.open(hidden, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _own[process] = descriptor, hidden.rename(parent / name)
    return _own[process][1]


def _leave_to_parent() -> None:
    """Forget the parent's folder in a forked child: the child takes no messages for its parent, and holds no lock."""
    for descriptor, _ in _own.values():
        os.close(descriptor)
    _own.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


def _put_back_from_the_dead(parent: Path, messages: Path) -> None:
    for folder in parent.glob("[!.]*"):
        with contextlib.suppress(OSError):  # the process is alive, or another worker is clearing the folder
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for taken in folder.iterdir():
                    _put_back(taken, messages)
                folder.rmdir()
            finally:
                os.close(descriptor)
