"""A connection for publishing: each wait for the broker is bounded, and another thread can cut it.

Two detours of kombu's that take a third of the time of a message are left out on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from celery_leader.backends.bounded import cut_socket

#: The longest wait (seconds) for Redis to accept a connection: it can't be cut.
CONNECT_TIMEOUT = 2.0


def open_connection(app: Any, io_timeout: float) -> Any:
    """Return a connection by which *app* publishes; it connects when it is first used.

    Args:
        app: The Celery app.
        io_timeout: How long (seconds) to wait at most for a silent broker: Redis, or one that speaks AMQP. The app's
            ``broker_transport_options`` may say less.
    """
    connection = app.connection_for_write()
    transport = connection.get_transport_cls()
    options = connection.transport_options or {}
    limits = {
        "redis": {"socket_timeout": io_timeout, "socket_connect_timeout": min(io_timeout, CONNECT_TIMEOUT)},
        "amqp": {
            "connect_timeout": min(io_timeout, app.conf.broker_connection_timeout or io_timeout),
            "read_timeout": io_timeout,
            "write_timeout": io_timeout,
        },
    }.get(transport.driver_type, {})
    bounds: dict[str, Any] = {name: min(options.get(name) or limit, limit) for name, limit in limits.items()}
    if transport.driver_type == "amqp":
        bounds["confirm_publish"] = True  # a message in a socket's buffer has not reached the broker
    connection.transport_options = {**options, **bounds}
    plain, ours = connection.get_transport_cls, cache(_cuttable)
    connection.get_transport_cls = lambda: ours(plain())  # a method: kombu resets the attribute when brokers change
    return connection


def cut(connection: Any) -> None:
    """Fail each wait for the broker of *connection*, from another thread. The next use connects again.

    Other transports than those for Redis and AMQP have no sockets that are known here: they wait for their timeouts.
    """
    sockets = getattr(connection.get_transport_cls(), "sockets", None)
    for each in sockets() if sockets else ():
        cut_socket(each)


def lean(producer: Any) -> Any:
    """Return *producer*, which from now on binds no queue that its connection knows; kombu copies it for a message."""
    declare = producer.maybe_declare

    def maybe_declare(entity: Any, *args: Any, **kwargs: Any) -> Any:
        if entity and entity.can_cache_declaration:
            connection = producer.channel.connection
            if connection and hash(entity) in connection.client.declared_entities:
                return False
        return declare(entity, *args, **kwargs)

    producer.maybe_declare = maybe_declare
    return producer


def _cuttable(transport: Any) -> Any:
    """Return kombu's *transport* in a form that tells its sockets, if its driver is known."""
    make = {"redis": _redis, "amqp": _amqp}.get(transport.driver_type)
    return make(transport) if make else transport


def _redis(transport: Any) -> Any:
    """Return kombu's *transport* for Redis that tells its sockets, with lasting clients: kombu makes one a message."""
    pools: list[Any] = []

    class Channel(transport.Channel):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.Client = _lasting(self.Client)  # type: ignore[has-type]  # kombu has no types

        def _get_pool(self, *args: Any, **kwargs: Any) -> Any:
            pools[:] = [super()._get_pool(*args, **kwargs)]  # known before its first, which the broker may not answer
            return pools[0]

    def sockets() -> Iterator[Any]:
        for pool in pools:
            for connection in list(pool._in_use_connections):  # noqa: SLF001  # disconnect() would take it from its reader
                if sock := connection._sock:  # noqa: SLF001  # nothing public tells it
                    yield sock

    return type(transport.__name__, (transport,), {"Channel": Channel, "sockets": staticmethod(sockets)})


def _amqp(transport: Any) -> Any:
    """Return kombu's *transport* for AMQP that tells its socket."""
    connections: list[Any] = []

    class Connection(transport.Connection):
        def connect(self, *args: Any, **kwargs: Any) -> Any:
            connections[:] = [self]  # known before the handshake, which the broker may not answer
            return super().connect(*args, **kwargs)

    def sockets() -> Iterator[Any]:
        for connection in connections:
            if sock := getattr(connection._transport, "sock", None):  # noqa: SLF001  # nothing public tells it
                yield sock

    return type(transport.__name__, (transport,), {"Connection": Connection, "sockets": staticmethod(sockets)})


def _lasting(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return what *make* does, with one client for each pool of connections."""
    clients: dict[Any, Any] = {}

    def client(*, connection_pool: Any, **kwargs: Any) -> Any:
        if connection_pool not in clients:
            clients[connection_pool] = make(connection_pool=connection_pool, **kwargs)
        return clients[connection_pool]

    return client
