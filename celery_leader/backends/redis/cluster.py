"""A client for the one node of a Redis Cluster that keeps an election's keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.exceptions import AskError, MovedError, RedisError, ResponseError

T = TypeVar("T")

Address = tuple[str, int]

#: How many nodes may send a command on to another before it is given up.
_REDIRECTIONS = 5


class ClusterClient:
    """Knows the commands that locks and ledgers need, and sends each to the node that is said to keep its keys.

    All keys of an election are in one slot, and so on one node: nothing of the others need be known. redis-py's own
    client asks for all slots and all commands before its first call (some 50 ms, and rights that an election does not
    need), tries again what may have been done already, and fails on nodes that keep nothing of ours.
    """

    def __init__(self, connect: Callable[[Address], redis.Redis], nodes: Sequence[Address]) -> None:
        """Prepare; nothing is connected.

        Args:
            connect: Makes a client for one node.
            nodes: Those to begin with, the first that answers.
        """
        self._connect = connect
        self._nodes = nodes
        self._address: Address | None = None
        self._client: redis.Redis | None = None

    def get(self, key: str) -> Any:
        """See :meth:`redis.Redis.get`."""
        return self._follow(lambda client: client.get(key))

    def evalsha(self, digest: str, count: int, *words: str | bytes) -> Any:
        """See :meth:`redis.Redis.evalsha`."""
        return self._follow(lambda client: client.evalsha(digest, count, *words))

    def eval(self, source: str, count: int, *words: str | bytes) -> Any:
        """See :meth:`redis.Redis.eval`."""
        return self._follow(lambda client: client.eval(source, count, *words))

    def config_get(self, name: str) -> Any:
        """See :meth:`redis.Redis.config_get`; any node's."""
        return self._current().config_get(name)

    def info(self, section: str) -> Any:
        """See :meth:`redis.Redis.info`; any node's."""
        return self._current().info(section)

    def pubsub(self, **options: Any) -> Any:
        """See :meth:`redis.Redis.pubsub`. Each node hears what is published at any."""
        return self._current().pubsub(**options)

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            close(client)

    def _follow(self, work: Callable[[Any], T]) -> T:
        """Do *work* with the node that answers for its keys. A node that sends it on has not done it."""
        for _ in range(_REDIRECTIONS):
            try:
                return work(self._current())
            except ResponseError as error:
                kind, address = self._redirection(error)
            if kind == "ASK":  # for this once: the key is on its way there
                return self._ask(address, work)
            self._go_to(address)
        raise RedisError(f"the nodes sent a command on {_REDIRECTIONS} times, the last time to {address}")

    def _redirection(self, error: ResponseError) -> tuple[str, Address]:
        """Return what *error* says of where to go; raise it if it says something else."""
        if isinstance(error, AskError):
            kind, host, port = "MOVED" if isinstance(error, MovedError) else "ASK", error.host, int(error.port)
        else:  # redis-py 5 leaves it to the text: "MOVED 3999 127.0.0.1:6381"
            kind, _, rest = str(error).partition(" ")
            if kind not in {"MOVED", "ASK"}:
                raise error
            host, _, digits = rest.partition(" ")[2].rpartition(":")
            port = int(digits)
        # No host means: the one that you asked.
        return kind, (host or (self._address[0] if self._address else ""), port)

    def _ask(self, address: Address, work: Callable[[Any], T]) -> T:
        client = self._connect(address)
        try:
            with client.pipeline(transaction=False) as pipeline:
                pipeline.execute_command("ASKING")
                work(pipeline)
                answer: T = pipeline.execute()[-1]
                return answer
        finally:
            close(client)

    def _current(self) -> redis.Redis:
        """Return the client of the node that answered last, or of the first that answers."""
        if self._client is not None:
            return self._client
        for address in self._nodes:
            client = self._go_to(address)
            if _answers(client):
                break
        return client

    def _go_to(self, address: Address) -> redis.Redis:
        self.close()
        self._address, self._client = address, self._connect(address)
        return self._client


def _answers(client: redis.Redis) -> bool:
    """Return whether a node is there, before it is sent what must not be sent twice."""
    try:
        client.ping()
    except ResponseError:  # PING may be forbidden
        return True
    except (RedisError, OSError):
        return False
    return True


def close(client: redis.Redis) -> None:
    """Close all connections of *client*."""
    client.close()
    client.connection_pool.disconnect()
