"""RabbitMQ: one node that knows of no other."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from tests.servers.processes import HOST, ServerMissing, find_program, free_port
from tests.servers.server import Server

#: What Debian's package puts where; the newest comes first.
PLACE = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins"


class RabbitServer(Server):
    """A RabbitMQ without plugins, whose node talks to no other and needs no epmd.

    The Erlang machine is started as what RabbitMQ's script would turn it into in the end: a node with its name from the
    start, which therefore starts no epmd to ask whether the name is free. Nothing of it outlives its main process.
    """

    name = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self._node_port = free_port()

    @property
    def url(self) -> str:
        """The address of the virtual host that is there from the start."""
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    @property
    def node(self) -> str:
        """Its name among nodes; its data are kept by it."""
        return f"leader-{self.port}@{HOST}"

    def prepare(self) -> None:
        """Nothing: it starts on an empty directory."""

    def command(self) -> list[str]:
        """One scheduler that does not spin while it is idle: tests have two cores."""
        distribution = {
            "inet_dist_use_interface": "{127,0,0,1}",
            "inet_dist_listen_min": str(self._node_port),
            "inet_dist_listen_max": str(self._node_port),
        }
        return [
            *[find_program("erl", "rabbitmq-server", "/usr/bin"), "-noinput"],
            *["-name", self.node, "-setcookie", self.node, "-start_epmd", "false"],
            *["-erl_epmd_port", str(self._node_port)],
            *[word for key, value in distribution.items() for word in ("-kernel", key, value)],
            *["-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false"],
            *["-boot", "start_sasl", "-s", "rabbit", "boot"],
            *["+W", "w", "+S", "1:1", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"],
        ]

    def answers(self) -> bool:
        """It begins the conversation with a method frame, after the client's greeting."""
        with socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"

    def _surroundings(self) -> dict[str, Any]:
        """All that it would look for in the system's directories, or in its user's home."""
        surroundings = super()._surroundings()
        names = {
            "HOME": self.home,
            "ERL_CRASH_DUMP": f"{self.home}/crash",
            "ERL_LIBS": _libraries(),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._node_port,
            "RABBITMQ_MNESIA_BASE": self.data,
            "RABBITMQ_LOG_BASE": f"{self.home}/logs",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.home}/plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{self.home}/none",
            "RABBITMQ_CONFIG_FILE": f"{self.home}/none",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{self.home}/none",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{self.home}/generated",
        }
        environment = {**surroundings["env"], **{key: str(value) for key, value in names.items()}}
        return {**surroundings, "env": environment}


def _libraries() -> str:
    for path in sorted(Path("/").glob(PLACE.lstrip("/")), reverse=True):
        return str(path)
    raise ServerMissing("rabbitmq-server", "Debian: apt-get install rabbitmq-server")
