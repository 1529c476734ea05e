"""Two detours of kombu's that take a third of the time of a message, left out on the beat's own connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def with_lasting_clients(transport: Any) -> Any:
    """Return kombu's *transport* for Redis with lasting clients; it makes one a message."""

    class Channel(transport.Channel):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.Client = _lasting(self.Client)  # type: ignore[has-type]  # kombu has no types

    return type(transport.__name__, (transport,), {"Channel": Channel})


def asking_first(producer: Any) -> Any:
    """Return *producer*, which from now on binds no queue that its connection knows; it copies one a message."""
    declare = producer.maybe_declare

    def maybe_declare(entity: Any, *args: Any, **kwargs: Any) -> Any:
        if entity and entity.can_cache_declaration:
            connection = producer.channel.connection
            if connection and hash(entity) in connection.client.declared_entities:
                return False
        return declare(entity, *args, **kwargs)

    producer.maybe_declare = maybe_declare
    return producer


def _lasting(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return what *make* does, with one client for each pool of connections."""
    clients: dict[Any, Any] = {}

    def client(*, connection_pool: Any, **kwargs: Any) -> Any:
        if connection_pool not in clients:
            clients[connection_pool] = make(connection_pool=connection_pool, **kwargs)
        return clients[connection_pool]

    return client
