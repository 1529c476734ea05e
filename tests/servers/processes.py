"""The programs, ports and processes of servers, as the system knows them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"


class ServerMissing(RuntimeError):
    """A server's program is not installed. Tests fail on it; they do not skip."""

    def __init__(self, program: str, cure: str) -> None:
        super().__init__(
            f"The tests need {program!r}, which is neither on PATH nor where its package puts it. "
            f"Install it ({cure}), or run `make test` as root, which does."
        )


class ServerFailed(RuntimeError):
    """A server did not start or stop; the message ends with the last lines of its log."""


def find_program(name: str, package: str, *places: str) -> str:
    """The path of program *name*: in Debian's *places* (glob patterns), the newest first, else on PATH."""
    for place in places:
        for path in sorted(Path("/").glob(place.lstrip("/")), reverse=True):
            if os.access(path / name, os.X_OK):
                return str(path / name)
    if found := shutil.which(name):
        return found
    raise ServerMissing(name, f"Debian: apt-get install {package}")


def find_library(name: str, package: str, place: str) -> str:
    """The path of library *name* in Debian's *place* (a glob pattern)."""
    for path in Path("/").glob(f"{place.lstrip('/')}/{name}"):
        return str(path)
    raise ServerMissing(name, f"Debian: apt-get install {package}")


def free_port() -> int:
    """A port nobody listens on.

    Below the range from which the system takes the ports of outgoing connections: a server that is down for a while
    must find its port free when it comes back.
    """
    for _ in range(200):
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ServerFailed("found no free port between 20000 and 32000")


def process_table() -> dict[int, tuple[int, str]]:
    """Every process's parent and state letter, by process id."""
    table = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name stands in brackets and may hold anything: count from the last bracket.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            table[int(entry.name)] = (int(parent), state)
    return table


def family(pid: int) -> list[int]:
    """Process *pid* and all its descendants, parents first."""
    parents = {child: parent for child, (parent, _) in process_table().items()}
    members = [pid]
    for member in members:
        members.extend(child for child, parent in parents.items() if parent == member)
    return members


def listens(pid: int, port: int) -> bool:
    """Whether process *pid* itself listens on *port* of 127.0.0.1."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "0A"}
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            held.add(str(descriptor.readlink()))
    return bool(sockets & held)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to each of *pids* that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
