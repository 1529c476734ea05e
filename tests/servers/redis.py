"""Redis: one server, a sentinel that watches one, a cluster."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers.processes import HOST, find_program, free_port
from tests.servers.server import Server
from tests.waiting import eventually

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

SLOTS = 16_384


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: who signed the server's certificate, the certificate and its key."""

    authority: str
    certificate: str
    key: str


class RedisServer(Server):
    """A Redis that writes every command to its append-only file before it answers."""

    name = "redis"

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        certificates: Certificates | None = None,
        stepped_clock: bool = False,
    ) -> None:
        super().__init__(stepped_clock=stepped_clock)
        self.settings = dict(settings or {})
        self._certificates = certificates

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"{'rediss' if self._certificates else 'redis'}://{HOST}:{self.port}/0"

    def prepare(self) -> None:
        """Nothing: it starts on an empty directory."""

    def command(self) -> list[str]:
        """`appendfsync no`: the file is written before each answer; `everysec` may put it off for two seconds."""
        settings = {
            "port": str(self.port),
            "bind": HOST,
            "dir": str(self.data),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",
            **self._tls(),
            **self.settings,
        }
        return [self.program(), *(word for key, value in settings.items() for word in (f"--{key}", value))]

    @staticmethod
    def program() -> str:
        """The path of the program."""
        return find_program("redis-server", "redis-server", "/usr/bin")

    def _tls(self) -> dict[str, str]:
        if self._certificates is None:
            return {}
        return {
            "port": "0",
            "tls-port": str(self.port),
            "tls-ca-cert-file": self._certificates.authority,
            "tls-cert-file": self._certificates.certificate,
            "tls-key-file": self._certificates.key,
            "tls-auth-clients": "no",
        }

    def answers(self) -> bool:
        """PING, which it answers with an error while it loads its data."""
        return self.command_line("PING") == b"+PONG\r\n"

    def command_line(self, line: str) -> bytes:
        """Send one command as an operator types it; the beginning of the answer."""
        with socket.create_connection((HOST, self.port), timeout=1) as plain, self._dressed(plain) as connection:
            connection.sendall(line.encode() + b"\r\n")
            return connection.recv(65_536)

    def _dressed(self, plain: socket.socket) -> socket.socket:
        if self._certificates is None:
            return plain
        return ssl.create_default_context(cafile=self._certificates.authority).wrap_socket(plain, server_hostname=HOST)


class SentinelServer(RedisServer):
    """A sentinel that alone decides when the master it watches is down: half a second after the last answer."""

    name = "sentinel"

    def __init__(self, master: RedisServer, master_name: str = "mymaster") -> None:
        super().__init__()
        self.master_name = master_name
        self._first_port = master.port

    @property
    def url(self) -> str:
        """The address as `leader_backend` takes it."""
        return f"sentinel://{HOST}:{self.port}"

    def prepare(self) -> None:
        """Write its configuration, which it goes on writing itself."""
        lines = [
            f"port {self.port}",
            f"bind {HOST}",
            f"dir {self.data}",
            f"sentinel monitor {self.master_name} {HOST} {self._first_port} 1",
            f"sentinel down-after-milliseconds {self.master_name} 500",
            f"sentinel failover-timeout {self.master_name} 3000",
        ]
        (self.data / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        """The same program in another role."""
        return [self.program(), str(self.data / "sentinel.conf"), "--sentinel"]

    def knows_a_replica(self) -> bool:
        """Whether it has seen a replica of the master, and that it is in order: it could promote it."""
        answer = self.command_line(f"SENTINEL REPLICAS {self.master_name}")
        return b"master-link-status\r\n$2\r\nok" in answer

    def master_port(self) -> int:
        """Whom it calls the master now."""
        answer = self.command_line(f"SENTINEL GET-MASTER-ADDR-BY-NAME {self.master_name}")
        return int(answer.split(b"\r\n")[-2])


class RedisCluster:
    """Some nodes that share the slots, without replicas."""

    def __init__(self, count: int = 3, *, certificates: Certificates | None = None) -> None:
        self._certificates = certificates
        self.nodes = [self._node() for _ in range(count)]
        self._running = ExitStack()

    def _node(self) -> RedisServer:
        # A short timeout: what is left of the cluster finds out soon that a node is gone, and that it is back.
        return RedisServer(
            {
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-port": str(free_port()),
                "cluster-node-timeout": "2000",
                "cluster-require-full-coverage": "no",
                "tls-cluster": "yes" if self._certificates else "no",
            },
            certificates=self._certificates,
        )

    @property
    def url(self) -> str:
        """The nodes' addresses as `leader_backend` takes them."""
        scheme = "rediss+cluster" if self._certificates else "redis+cluster"
        return f"{scheme}://" + ";".join(f"{HOST}:{node.port}" for node in self.nodes)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._divide()
            self._introduce()
            self._running = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def _divide(self) -> None:
        bounds = [number * SLOTS // len(self.nodes) for number in range(len(self.nodes) + 1)]
        for node, first, end in zip(self.nodes, bounds, bounds[1:], strict=False):
            assert node.command_line(f"CLUSTER ADDSLOTSRANGE {first} {end - 1}") == b"+OK\r\n"

    def _introduce(self) -> None:
        first = self.nodes[0]
        for other in self.nodes[1:]:
            bus = other.settings["cluster-port"]
            assert first.command_line(f"CLUSTER MEET {HOST} {other.port} {bus}") == b"+OK\r\n"
        eventually(self.is_whole, 20, interval=0.1, what="the nodes know each other and all slots")

    def is_whole(self) -> bool:
        """Whether every node knows the place of every slot."""
        wanted = (b"cluster_state:ok", b"cluster_slots_ok:16384", f"cluster_known_nodes:{len(self.nodes)}".encode())
        answers = [node.command_line("CLUSTER INFO") for node in self.nodes]
        return all(line in answer for answer in answers for line in wanted)

    def owner(self, key: str) -> RedisServer:
        """The node that keeps *key*."""
        slot = self.slot(key)
        return next(node for node in self.nodes if self._has(node, slot))

    def move(self, key: str) -> None:
        """Have the next node keep *key* and all of its slot, as resharding does."""
        with self.moving(key):
            pass

    @contextmanager
    def moving(self, key: str) -> Iterator[None]:
        """Meanwhile all keys of *key*'s slot are at the next node, and the slot is still this one's."""
        slot, source = self.slot(key), self.owner(key)
        target = self.nodes[(self.nodes.index(source) + 1) % len(self.nodes)]
        target_id, source_id = self._id(target), self._id(source)
        self._set_slot(slot, [(target, f"IMPORTING {source_id}"), (source, f"MIGRATING {target_id}")])
        keys = source.command_line(f"CLUSTER GETKEYSINSLOT {slot} 100").decode().split("\r\n")[2::2]
        if keys:
            moved = source.command_line(f'MIGRATE {HOST} {target.port} "" 0 5000 KEYS {" ".join(keys)}')
            assert moved == b"+OK\r\n", moved
        yield
        self._set_slot(slot, [(target, f"NODE {target_id}"), (source, f"NODE {target_id}")])

    @staticmethod
    def _set_slot(slot: int, lines: list[tuple[RedisServer, str]]) -> None:
        for node, words in lines:
            answer = node.command_line(f"CLUSTER SETSLOT {slot} {words}")
            assert answer == b"+OK\r\n", answer

    @staticmethod
    def _id(node: RedisServer) -> str:
        return node.command_line("CLUSTER MYID").decode().split("\r\n")[1]

    def slot(self, key: str) -> int:
        """The slot of *key*."""
        return int(self.nodes[0].command_line(f"CLUSTER KEYSLOT {key}")[1:])

    @staticmethod
    def _has(node: RedisServer, slot: int) -> bool:
        """Whether *node* itself answers for *slot*."""
        lines = node.command_line("CLUSTER NODES").decode().splitlines()
        (own,) = [line for line in lines if "myself" in line]
        for word in own.split()[8:]:
            first, _, last = word.partition("-")
            if not word.startswith("[") and int(first) <= slot <= int(last or first):
                return True
        return False
