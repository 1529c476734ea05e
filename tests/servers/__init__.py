"""Real servers for the tests, each on a free port of 127.0.0.1 and in a directory of its own.

    with RedisServer() as server:
        client = redis.Redis.from_url(server.url)
        server.kill()       # SIGKILL: what was acknowledged is kept, as on a machine whose disk lives
        server.restart()    # on the same port
        server.pause()      # SIGSTOP: connections stay open and nothing answers
        server.resume()

Whoever starts a server stops it: `with`, a fixture, or `close()`. Should that process be killed itself, a small watcher
that holds the end of a pipe kills the server. Nothing here needs a database driver. Syncing to disk is off, writing is
not: what a server acknowledged outlives its SIGKILL, so a test that loses data has found something.
"""

from __future__ import annotations

from tests.servers.databases import DatabaseServer, MariaDBServer, PostgresServer
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.processes import HOST, ServerFailed, ServerMissing, family, find_program, free_port, process_table
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import Certificates, RedisCluster, RedisServer, SentinelServer
from tests.servers.server import Server
from tests.servers.valkey import REDIS_KINDS, ValkeyServer, has_valkey_wheel

__all__ = [
    "HOST",
    "REDIS_KINDS",
    "Certificates",
    "DatabaseServer",
    "MariaDBServer",
    "PgBouncerServer",
    "PostgresServer",
    "RabbitServer",
    "RedisCluster",
    "RedisServer",
    "SentinelServer",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "ValkeyServer",
    "family",
    "find_program",
    "free_port",
    "has_valkey_wheel",
    "process_table",
]
