"""From a URL to a client of redis-py whose every wait is bounded: one server, behind sentinels, or a cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, TypeVar, cast
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_leader.backends.listening import KEEPALIVE_AFTER, KEEPALIVE_EACH, KEEPALIVE_TIMES
from celery_leader.backends.redis.cluster import ClusterClient
from celery_leader.backends.urls import described
from celery_leader.exceptions import ConfigurationError

R = TypeVar("R", bound=redis.Redis)

_SENTINEL_PORT = 26379
_PORT = 6379

_KEEPALIVE = {
    "TCP_KEEPIDLE": KEEPALIVE_AFTER,
    "TCP_KEEPALIVE": KEEPALIVE_AFTER,  # on macOS
    "TCP_KEEPINTVL": KEEPALIVE_EACH,
    "TCP_KEEPCNT": KEEPALIVE_TIMES,
}

#: Called with each connection that a client opens, before it is used.
OnConnection = Callable[[Any], None]
_Connect = Callable[[OnConnection], redis.Redis]


@dataclass(frozen=True)
class Place:
    """Where a Redis is.

    Attributes:
        connect: Makes a client for it; nothing is connected. It receives a callback that is called with each
            connection that the client opens.
        description: What to call it in logs.
        timeout: The longest (seconds) that one call may take.
        is_cluster: Whether there are many nodes, each with its share of the keys.
    """

    connect: _Connect
    description: str
    timeout: float
    is_cluster: bool = False


def parse(url: str, timeout: float, options: Mapping[str, Any]) -> Place:
    """Return the place that *url* names.

    Args:
        url: ``redis://``, ``rediss://``, ``sentinel://``, ``redis+cluster://`` or ``rediss+cluster://``.
        timeout: The longest (seconds) that one call may take.
        options: For redis-py's client; ``master_name`` for Sentinel.

    Raises:
        ConfigurationError: The URL can't be read, or an option is missing or unknown.
    """
    description = described(url)
    scheme = url.partition(":")[0]
    read = _sentinel if scheme == "sentinel" else _cluster if scheme.endswith("+cluster") else _plain
    try:
        connect = read(url, timeout, dict(options))
        connect(lambda _: None).connection_pool.make_connection()  # refuses unknown options, and opens nothing
    except ConfigurationError:
        raise
    except ValueError:  # its text may hold a part of a password
        raise ConfigurationError(
            f"leader_backend {description} can't be read. The characters / ? # @ : ; [ ] in a user or password must be "
            "percent-encoded, and ports and databases are numbers."
        ) from None
    except (TypeError, RedisError) as error:
        raise ConfigurationError(f"leader_backend {description} can't be used: {error}") from error
    return Place(connect, description, timeout, is_cluster=read is _cluster)


def _plain(url: str, timeout: float, options: dict[str, Any]) -> _Connect:
    parts = urlsplit(url)
    parts.port  # noqa: B018  # raises on a port that is none
    if (database := parts.path.strip("/")) and not database.isdigit():
        raise ValueError("redis-py takes it for database 0")
    return partial(_from_url, redis.Redis, url, _bounded(timeout, options))


def _sentinel(url: str, timeout: float, options: dict[str, Any]) -> _Connect:
    """Read ``sentinel://host:port;sentinel://host:port/db``, the form that kombu made known."""
    master = options.pop("master_name", None)
    if not master:
        raise ConfigurationError(
            "leader_backend sentinel:// needs the name of the master that the sentinels watch: "
            'leader_backend_options = {"master_name": "mymaster"}.'
        )
    parts = _parts(url)
    sentinels = [(part.hostname or "localhost", part.port or _SENTINEL_PORT) for part in parts]
    credentials = {"username": unquote(parts[0].username or ""), "password": unquote(parts[0].password or "")}
    database = next((int(part.path[1:]) for part in reversed(parts) if len(part.path) > 1), 0)
    # All sentinels may have to be asked before the master is: each gets its share of the time.
    each = timeout / (len(sentinels) + 1)
    sentinel_options = _bounded(each, options.pop("sentinel_kwargs", {}))
    client_options = _bounded(each, {"db": database, **{k: v for k, v in credentials.items() if v}, **options})

    def connect(on_connection: OnConnection) -> redis.Redis:
        watch = Sentinel(
            sentinels,
            sentinel_kwargs=_telling(on_connection, sentinel_options),
            **_telling(on_connection, client_options),
        )
        client: redis.Redis = watch.master_for(master)
        return client

    return connect


def _cluster(url: str, timeout: float, options: dict[str, Any]) -> _Connect:
    """Read ``redis+cluster://host:port;host:port``: some of the nodes, of which one must answer."""
    parts = _parts(url)
    nodes = [(part.hostname or "localhost", part.port or _PORT) for part in parts]
    if any(part.path.strip("/") not in {"", "0"} for part in parts):
        raise ConfigurationError(f"leader_backend {described(url)} names a database; a Redis Cluster has only 0.")
    remap = options.pop("address_remap", None) or (lambda address: address)
    # What stands before the @ and after the ? of the first node holds for all.
    first = f"{parts[0].scheme.partition('+')[0]}://{url.partition('://')[2].partition(';')[0]}"
    bounded = _bounded(timeout, options)
    turns = cycle(range(len(nodes)))

    def connect(on_connection: OnConnection) -> redis.Redis:
        client = _from_url(ClusterClient, first, bounded, on_connection)
        turn = next(turns)  # another one each time: a node that hangs is not asked first for ever
        client.nodes, client.remap = nodes[turn:] + nodes[:turn], remap
        return client

    return connect


def _parts(url: str) -> list[SplitResult]:
    scheme = url.partition("://")[0]
    return [urlsplit(part if "://" in part else f"{scheme}://{part}") for part in url.split(";") if part]


def _bounded(timeout: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return *options* with what bounds each wait: half of *timeout* seconds to connect, half for a part of an answer.

    Without ``retry`` redis-py 8 would try again so often that a timeout of 1 s took 15 s (measured). Its health checks
    end no wait for notifications: it does not miss the answer to its ``PING``.
    """
    half = timeout / 2
    bounds = {"socket_timeout": half, "socket_connect_timeout": half, "retry": Retry(NoBackoff(), 0)}
    return {**_keepalive(), **options, **bounds, "health_check_interval": 0, "decode_responses": False}


def _keepalive() -> dict[str, Any]:
    """Return what has the system notice that the other end is gone, as well as it can be told to."""
    known = {getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": known}


def _from_url(kind: type[R], url: str, options: Mapping[str, Any], on_connection: OnConnection) -> R:
    """Return a client for *url*, whose query may add to *options* but not change what :func:`_bounded` says."""
    options = _telling(on_connection, options)
    client = cast("R", kind.from_url(url, **options))
    client.connection_pool.connection_kwargs.update({name: options[name] for name in _bounded(0, {})})
    return client


def _telling(on_connection: OnConnection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return *options* with which a client tells of each connection, before it greets the server on it."""
    greet = options.get("redis_connect_func") or (lambda connection: connection.on_connect())

    def connected(connection: Any) -> None:
        on_connection(connection)
        greet(connection)

    return {**options, "redis_connect_func": connected}
