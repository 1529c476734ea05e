"""A client for the one node of a Redis Cluster that keeps an election's keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.exceptions import AskError, MovedError, RedisError, ResponseError

Address = tuple[str, int]

#: So many redirections are too many for one command. While a slot moves to another node, each command takes two.
_REDIRECTIONS = 5
_REDIRECTION = re.compile(r"(MOVED|ASK) \d+ (.*):(\d+)")


class ClusterClient(redis.Redis):
    """Talks to one node at a time, and follows that node's redirections.

    All keys of an election share a hash tag, so one node keeps them, and no other need be known. redis-py's
    ``RedisCluster`` (tried with 5.2 and 8.1) is worse at this: before its first call it asks for all slots and all
    commands, which takes 50 ms, needs rights that an election does not, and fails while the node of the first slots
    hangs; while a slot moves to a node without slots, every call fails; after a ``MOVED`` it forgets ``address_remap``.
    """

    #: Nodes to begin with: the first that answers. Empty from the first command on.
    nodes: Sequence[Address]
    #: Returns the address at which this process reaches a node, from the one that the nodes use.
    remap: Callable[[Address], Address]
    _address: Address

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """See :meth:`redis.Redis.execute_command`. A node that redirects a command has not executed it."""
        self._join()
        is_asking = False
        for _ in range(_REDIRECTIONS):
            try:
                if is_asking:  # the slot is on its way to this node, which takes no command for it without this
                    redis.Redis.execute_command(self, "ASKING")
                return redis.Redis.execute_command(self, *args, **options)
            except ResponseError as error:
                is_asking = self._follow(error) == "ASK"
        raise RedisError(f"the nodes redirected a command {_REDIRECTIONS} times, the last time to {self._address}")

    def pubsub(self, **options: Any) -> Any:
        """See :meth:`redis.Redis.pubsub`. Each node hears what is published at any."""
        self._join()
        return redis.Redis.pubsub(self, **options)

    def _join(self) -> None:
        nodes, self.nodes = self.nodes, ()
        for address in nodes:
            self._go_to(address)
            if self._answers():
                return

    def _follow(self, error: ResponseError) -> str:
        """Go to the node that *error* names, and return its first word; raise it if it is no redirection."""
        text = str(error)  # redis-py 5 has all of "MOVED 3999 127.0.0.1:6381" there, later ones not the first word
        if isinstance(error, AskError):
            text = f"{'MOVED' if isinstance(error, MovedError) else 'ASK'} {text}"
        if not (redirection := _REDIRECTION.fullmatch(text)):
            raise error
        kind, host, port = redirection.groups()
        self._go_to((host or self._address[0], int(port)))  # no host means: the one that was asked
        return kind

    def _go_to(self, address: Address) -> None:
        self._address = address
        host, port = self.remap(address)
        pool = self.connection_pool
        pool.disconnect()
        pool.reset()  # or it would open the same connections again
        pool.connection_kwargs.update(host=host, port=port)

    def _answers(self) -> bool:
        try:
            self.ping()
        except ResponseError:  # PING may be forbidden
            return True
        except (RedisError, OSError):
            return False
        return True
