"""PostgreSQL and MariaDB."""

from __future__ import annotations

import signal
import socket
import subprocess
from abc import abstractmethod
from typing import Any, ClassVar

from tests.servers.processes import HOST, find_program
from tests.servers.server import Server


class DatabaseServer(Server):
    """What PostgreSQL and MariaDB have in common: databases, and how Django is told of them."""

    engine: ClassVar[str]
    user: ClassVar[str]
    database: ClassVar[str] = "leader"

    @abstractmethod
    def execute(self, sql: str, database: str = "") -> str:
        """Run a statement with the server's own client; what it printed."""

    def create_database(self, name: str) -> dict[str, Any]:
        """Create an empty database; its entry for Django's DATABASES."""
        self.execute(f"CREATE DATABASE {name}")
        return self.django_for(name)

    @property
    def django(self) -> dict[str, Any]:
        """The entry for Django's DATABASES of the database that is there from the start."""
        return self.django_for(self.database)

    def django_for(self, name: str) -> dict[str, Any]:
        """The entry for Django's DATABASES of database *name*."""
        return {
            "ENGINE": self.engine,
            "NAME": name,
            "USER": self.user,
            "PASSWORD": "",
            "HOST": HOST,
            "PORT": str(self.port),
        }

    def welcome(self) -> None:
        """Create the database that `django` names."""
        self.create_database(self.database)


class PostgresServer(DatabaseServer):
    """A PostgreSQL that trusts whoever connects, and does not wait for the disk."""

    name = "postgres"
    engine = "django.db.backends.postgresql"
    user = "postgres"
    account = "postgres"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for clients to leave

    @staticmethod
    def program(name: str) -> str:
        """A PostgreSQL program, from Debian's directory: what PATH calls `postgres` may be a wrapper."""
        return find_program(name, "postgresql", "/usr/lib/postgresql/*/bin")

    def prepare(self) -> None:
        """Make the cluster."""
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self.run(self.program("initdb"), f"--pgdata={self.data}", f"--username={self.user}", *options)

    def command(self) -> list[str]:
        """Commits stay synchronous: a commit that was acknowledged is written, if not flushed, and outlives SIGKILL."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
        }
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [self.program("postgres"), "-D", str(self.data), *words]

    def answers(self) -> bool:
        """Asked by its own pg_isready, which knows "starting up" from "accepting connections"."""
        return self.accepts(self.port)

    def accepts(self, port: int) -> bool:
        """Whether whoever listens on *port* takes PostgreSQL's clients."""
        question = [self.program("pg_isready"), "--quiet", f"--host={HOST}", f"--port={port}", "--timeout=1"]
        return subprocess.run(question, check=False).returncode == 0

    def execute(self, sql: str, database: str = "") -> str:
        """By psql, which prints rows without decoration."""
        address = [f"--host={HOST}", f"--port={self.port}", f"--username={self.user}"]
        options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
        return self.run(
            self.program("psql"), *address, *options, f"--dbname={database or 'postgres'}", f"--command={sql}"
        )


class MariaDBServer(DatabaseServer):
    """A MariaDB without binary log whose root needs no password, and which does not wait for the disk."""

    name = "mariadb"
    engine = "django.db.backends.mysql"
    user = "root"
    account = "mysql"

    @staticmethod
    def program(name: str) -> str:
        """A MariaDB program, from Debian's places or PATH."""
        return find_program(name, "mariadb-server", "/usr/sbin", "/usr/bin")

    def prepare(self) -> None:
        """Make the system tables."""
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        self.run(self.program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", *options)

    def command(self) -> list[str]:
        """`flush-log-at-trx-commit=2`: each commit is written before its answer, never flushed; it outlives SIGKILL."""
        settings = {
            "datadir": str(self.data),
            "bind-address": HOST,
            "port": str(self.port),
            "socket": f"{self.home}/socket",
            "pid-file": f"{self.home}/pid",
            "innodb-flush-log-at-trx-commit": "2",
            "innodb-fast-shutdown": "2",
            "innodb-buffer-pool-size": "32M",
            "innodb-log-file-size": "16M",
            "max-connections": "200",
            "max-connect-errors": "1000000",  # each look at its greeting counts as one
            "character-set-server": "utf8mb4",
        }
        words = [f"--{key}={value}" for key, value in settings.items()]
        return [self.program("mariadbd"), "--no-defaults", *words, "--skip-log-bin", "--skip-name-resolve"]

    def answers(self) -> bool:
        """It greets who connects: protocol version 10, or 255 for an error."""
        with socket.create_connection((HOST, self.port), timeout=1) as connection:
            return connection.recv(5)[4:5] == b"\x0a"

    def execute(self, sql: str, database: str = "") -> str:
        """By the client `mariadb`, which prints rows without decoration."""
        address = [f"--host={HOST}", f"--port={self.port}", f"--user={self.user}", "--protocol=tcp"]
        options = ["--batch", "--skip-column-names", f"--execute={sql}"]
        return self.run(self.program("mariadb"), "--no-defaults", *address, *options, *([database] if database else []))

    def django_for(self, name: str) -> dict[str, Any]:
        """As for any database; text in four-byte UTF-8."""
        return {**super().django_for(name), "OPTIONS": {"charset": "utf8mb4"}}
