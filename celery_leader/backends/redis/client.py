"""A Redis client whose calls end in time, and fail in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from hashlib import sha1
from importlib import resources
from shlex import quote
from typing import Any, TypeVar

from redis.client import PubSub
from redis.exceptions import AuthenticationError, MovedError, NoScriptError, RedisError, ResponseError

from celery_leader.backends.bounded import Session, SessionThread, cut_socket
from celery_leader.backends.redis.address import OnConnection, Place
from celery_leader.election.limits import shown
from celery_leader.exceptions import ConfigurationError, RecordDamaged, StoreUnavailable

T = TypeVar("T")


class RedisClient(Session[Any]):
    """One client of redis-py, made when it is first used.

    It bounds each wait, and a call has many: for a name, for each sentinel or node, for each part of an answer that
    trickles in.
    """

    def __init__(self, place: Place) -> None:
        """Prepare; nothing is connected."""
        super().__init__(place.description, place.timeout, _ClientThread)
        self.place = place

    def setting(self, name: str) -> str:
        """Return the server's setting *name*, empty when it has none.

        Raises:
            StoreUnavailable: It does not tell.
        """
        return self._ask(lambda client: str(client.config_get(name).get(name, "")))

    def is_node(self) -> bool:
        """Return whether the server is one of a cluster's.

        Raises:
            StoreUnavailable: It does not tell.
        """
        return self._ask(lambda client: bool(client.info("cluster").get("cluster_enabled")))

    def get(self, key: str) -> bytes | None:
        """Return the text under *key*, None when there is none.

        Raises:
            StoreUnavailable: There was no answer.
            RecordDamaged: There is something else than text.
        """
        answer = self._ask(lambda client: client.get(key), key)
        return None if answer is None else bytes(answer)

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        """Run the Lua script *script*, which lies beside this file, as one atomic step.

        Raises:
            StoreUnavailable: There was no answer; it may or may not have been run.
            RecordDamaged: A key holds another type than the script expects.
        """
        return self.run_all(script, keys, [arguments])[0]

    def run_all(self, script: str, keys: Sequence[str], arguments: Sequence[Sequence[str | bytes]]) -> list[Any]:
        """Run the Lua script *script* once for each of *arguments*, one after the other, all in the time of one call.

        Raises:
            StoreUnavailable: There was no answer; any may or may not have been run.
            RecordDamaged: A key holds another type than the script expects.
        """
        return self._ask(
            lambda client: [_run(client, script, [*keys, *each], len(keys)) for each in arguments], keys[0]
        )

    @contextmanager
    def subscription(self, channel: str, on_connection: OnConnection) -> Iterator[PubSub]:
        """Subscribe to *channel* on connections of its own, until the block ends.

        Args:
            channel: What to hear.
            on_connection: Told of each of the connections, the subscription's last; may refuse by an ``OSError``.

        Raises:
            StoreUnavailable: There was no answer.
        """
        with (
            self._answering(),
            closing(self.place.connect(on_connection)) as client,
            closing(client.pubsub(ignore_subscribe_messages=True)) as subscription,
        ):
            subscription.subscribe(channel)
            yield subscription

    def damaged(self, key: str, what: str) -> RecordDamaged:
        """Return the error that tells what is wrong with *key*, and the cure."""
        return RecordDamaged(
            f"{self.where}: the key {key!r} is left as it is: {what}. "
            f"Look at it, and if nobody needs it: redis-cli DEL {quote(key)}"
        )

    def is_no_cluster(self) -> ConfigurationError:
        """Return the error that tells how to name a cluster."""
        return ConfigurationError(
            f"leader_backend {self.where} is a node of a Redis Cluster. "
            'Name it as one: "redis+cluster://host:port;host:port".'
        )

    def _ask(self, work: Callable[[Any], T], key: str = "") -> T:
        with self._answering(key):
            return self.ask(work)

    @contextmanager
    def _answering(self, key: str = "") -> Iterator[None]:
        """Turn every way in which Redis fails to answer into one."""
        try:
            yield
        except ResponseError as error:
            if isinstance(error, MovedError) or str(error).startswith("MOVED "):  # redis-py 5 tells by the text
                raise self.is_no_cluster() from error
            if "WRONGTYPE" in str(error):
                raise self.damaged(key, "it holds another type than an election's") from error
            raise StoreUnavailable(f"{self.where} refused: {shown(error)}") from error
        except AuthenticationError as error:
            raise StoreUnavailable(
                f"{self.where} refused the login: {shown(error).rstrip('.')}. "
                "Correct user and password in leader_backend"
            ) from error
        except (RedisError, OSError) as error:
            cause = shown(error) or type(error).__name__
            raise StoreUnavailable(f"{self.where} did not answer: {cause}") from error


class _ClientThread(SessionThread[Any]):
    """Waits for Redis."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client, "celery-leader-redis")
        self._place = client.place
        self._client: Any = None
        self._connections: list[Any] = []

    def connect(self) -> Any:
        if self._client is None:
            self._client = self._place.connect(self._opened)
        return self._client

    def cut(self) -> None:
        for connection in list(self._connections):
            cut(connection)

    def disconnect(self) -> None:
        """Close the client; the next one may find another master or node."""
        client, self._client = self._client, None
        self._connections.clear()
        if client is not None:
            client.close()

    def _opened(self, connection: Any) -> None:
        self._connections.append(connection)
        self.refuse_if_abandoned()  # asked last: whoever abandons meanwhile cuts this one


def _run(client: Any, script: str, words: Sequence[str | bytes], keys: int) -> Any:
    """Run a script by its digest; only a server that doesn't know it is sent the text."""
    source, digest = _source(script)
    try:
        return client.evalsha(digest, keys, *words)
    except NoScriptError:
        return client.eval(source, keys, *words)


def cut(connection: Any) -> None:
    """Fail each wait on *connection*, which stays its owner's to close."""
    if connected := getattr(connection, "_sock", None):  # disconnect() would take it away from its reader
        cut_socket(connected)


@cache
def _source(script: str) -> tuple[str, str]:
    """Return a script's text, and the digest by which servers know it."""
    text = resources.files(__package__).joinpath(f"{script}.lua").read_text(encoding="utf-8")
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()
