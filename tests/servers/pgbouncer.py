"""PgBouncer, which lends few sessions of a PostgreSQL to many clients, for one transaction at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.servers.processes import HOST, find_program
from tests.servers.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.servers.databases import PostgresServer

#: Fewer than the clients of any contest: whoever counts on a session of its own meets somebody else's.
SESSIONS = 3


class PgBouncerServer(Server):
    """A PgBouncer in transaction mode that lets everybody in, before a PostgreSQL that runs."""

    name = "pgbouncer"
    account = "postgres"  # it refuses root

    def __init__(self, postgres: PostgresServer, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.postgres = postgres
        self.settings = dict(settings or {})

    def prepare(self) -> None:
        """Write its configuration: all else is as a new installation has it."""
        settings = {
            "listen_addr": HOST,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": str(SESSIONS),
            "max_client_conn": "200",
            **self.settings,
        }
        lines = [f"{key} = {value}" for key, value in settings.items()]
        place = f"host={HOST} port={self.postgres.port} user={self.postgres.user}"
        self._configuration.write_text("\n".join(["[databases]", f"* = {place}", "[pgbouncer]", *lines]) + "\n")

    @property
    def _configuration(self) -> Path:
        return self.data / "pgbouncer.ini"

    def command(self) -> list[str]:
        """It stays in the foreground, and logs there."""
        return [find_program("pgbouncer", "pgbouncer", "/usr/sbin"), str(self._configuration)]

    def answers(self) -> bool:
        """As a PostgreSQL does."""
        return self.postgres.accepts(self.port)

    def django_for(self, name: str) -> dict[str, Any]:
        """The entry for Django's DATABASES of database *name*, by way of this pooler, as Django's manual wants it."""
        return {**self.postgres.django_for(name), "PORT": str(self.port), "DISABLE_SERVER_SIDE_CURSORS": True}
