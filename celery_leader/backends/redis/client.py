"""A Redis client whose calls end in time, and fail in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.commands.core import Script
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_leader.exceptions import ConfigurationError, LockUnavailable, RecordDamaged

_SENTINEL_PORT = 26379


@dataclass(frozen=True)
class Place:
    """Where a Redis is: how to make a client for it, and what to call it in logs."""

    connect: Callable[[], redis.Redis]
    description: str


def parse(url: str, timeout: float, options: Mapping[str, Any]) -> Place:
    """Return the place that *url* names.

    Args:
        url: ``redis://``, ``rediss://`` or ``sentinel://``.
        timeout: The longest (seconds) that one call may take.
        options: For redis-py's client; ``master_name`` for Sentinel.

    Raises:
        ConfigurationError: The URL can't be read, or an option is missing or unknown.
    """
    description = _describe(url)
    try:
        if url.startswith("sentinel:"):
            connect = _sentinel(url, timeout, dict(options))
        else:
            urlsplit(url).port  # noqa: B018  # raises on a port that is none
            connect = _plain(url, _bounded(timeout, options))
        connect().connection_pool.make_connection()  # opens nothing, and refuses options that it doesn't know
    except (ValueError, TypeError, RedisError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"leader_backend {description} can't be used: {error}") from error
    return Place(connect, description)


def _plain(url: str, options: dict[str, Any]) -> Callable[[], redis.Redis]:
    return lambda: redis.Redis.from_url(url, **options)


def _sentinel(url: str, timeout: float, options: dict[str, Any]) -> Callable[[], redis.Redis]:
    """Read ``sentinel://host:port;sentinel://host:port/db``, the form that kombu made known."""
    master = options.pop("master_name", None)
    if not master:
        raise ConfigurationError(
            "leader_backend sentinel:// needs the name of the master that the sentinels watch: "
            'leader_backend_options = {"master_name": "mymaster"}.'
        )
    parts = [urlsplit(part if "://" in part else f"sentinel://{part}") for part in url.split(";") if part]
    sentinels = [(part.hostname or "localhost", part.port or _SENTINEL_PORT) for part in parts]
    credentials = {"username": parts[0].username, "password": parts[0].password}
    database = next((int(part.path[1:]) for part in reversed(parts) if len(part.path) > 1), 0)
    # All sentinels may have to be asked before the master is: each gets its share of the time.
    each = timeout / (len(sentinels) + 1)
    sentinel_options = _bounded(each, options.pop("sentinel_kwargs", {}))
    client_options = _bounded(each, {"db": database, **{k: v for k, v in credentials.items() if v}, **options})

    def connect() -> redis.Redis:
        watch = Sentinel(sentinels, sentinel_kwargs=sentinel_options, **client_options)
        client: redis.Redis = watch.master_for(master)
        return client

    return connect


def _bounded(timeout: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return *options* with what keeps a call within *timeout* seconds: half to connect, half for the answer.

    Without ``retry`` redis-py 8 would try again so often that a timeout of 1 s took 15 s (measured).
    """
    half = timeout / 2
    bounds = {"socket_timeout": half, "socket_connect_timeout": half, "retry": Retry(NoBackoff(), 0)}
    return {**options, **bounds, "health_check_interval": 0}


def _describe(url: str) -> str:
    """Return *url* without user, password and query."""
    places = []
    for part in url.split(";"):
        split = urlsplit(part)
        places.append(f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}")
    return ";".join(places)


class RedisClient:
    """One client, made when it is first used. Belongs to one thread at a time."""

    def __init__(self, place: Place) -> None:
        """Prepare; nothing is connected."""
        self.place = place
        self._redis: redis.Redis | None = None
        self._scripts: dict[str, Script] = {}

    def ping(self) -> None:
        """Ask whether the server is there.

        Raises:
            LockUnavailable: It is not.
        """
        with self._answering():
            self._client().ping()

    def setting(self, name: str) -> str:
        """Return the server's setting *name*, empty when it has none.

        Raises:
            LockUnavailable: It does not tell.
        """
        with self._answering():
            answer: Any = self._client().config_get(name)
            return str(answer.get(name, ""))

    def get(self, key: str) -> bytes | None:
        """Return the text under *key*, None when there is none.

        Raises:
            LockUnavailable: There was no answer.
            RecordDamaged: There is something else than text.
        """
        with self._answering(key):
            answer: Any = self._client().get(key)
            return None if answer is None else bytes(answer)

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        """Run the Lua script *script*, which lies beside this file, as one atomic step.

        Raises:
            LockUnavailable: There was no answer; it may or may not have been run.
            RecordDamaged: A key holds another type than the script expects.
        """
        with self._answering(keys[0]):
            client = self._client()
            if script not in self._scripts:
                self._scripts[script] = client.register_script(_source(script))
            return self._scripts[script](keys=list(keys), args=list(arguments))

    @contextmanager
    def subscription(self, channel: str) -> Iterator[PubSub]:
        """Subscribe to *channel* on a connection of its own, until the block ends.

        Raises:
            LockUnavailable: There was no answer.
        """
        with self._answering():
            subscription = self._client().pubsub(ignore_subscribe_messages=True)
            try:
                subscription.subscribe(channel)
                yield subscription
            finally:
                subscription.close()

    def close(self) -> None:
        """Close the connection; a later call opens another."""
        client, self._redis = self._redis, None
        self._scripts.clear()
        if client is not None:
            client.close()
            client.connection_pool.disconnect()

    def _client(self) -> redis.Redis:
        if self._redis is None:
            self._redis = self.place.connect()
        return self._redis

    @contextmanager
    def _answering(self, key: str = "") -> Iterator[None]:
        """Turn every way in which Redis fails to answer into one."""
        try:
            yield
        except ResponseError as error:
            if "WRONGTYPE" in str(error):
                raise damaged(self.place, key, "it holds another type than an election's") from error
            raise LockUnavailable(f"{self.place.description} refused: {error}") from error
        except (RedisError, OSError) as error:
            cause = str(error) or type(error).__name__
            raise LockUnavailable(f"{self.place.description} did not answer: {cause}") from error


def damaged(place: Place, key: str, what: str) -> RecordDamaged:
    """Return the error that tells what is wrong with *key*, and the cure."""
    return RecordDamaged(
        f"{place.description}: the key {key!r} is left as it is: {what}. "
        f"Look at it, and if nobody needs it: redis-cli DEL '{key}'"
    )


@cache
def _source(script: str) -> str:
    return resources.files(__package__).joinpath(f"{script}.lua").read_text(encoding="utf-8")
