"""The record of one election under one key."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from redis.client import PubSub

from celery_leader.backends.listening import Listener, Notifications
from celery_leader.backends.redis.client import RedisClient, cut
from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.election.limits import shown
from celery_leader.exceptions import RecordConflict, RecordNotFound


class RedisLock:
    """A key that holds the record as JSON. Its very bytes are the version; a random revision makes them differ.

    The key has no TTL: it is not what ends a lease, and ``volatile-*`` eviction leaves it alone.
    """

    def __init__(self, client: RedisClient, key: str, channel: str) -> None:
        """Use *key* for the record, and tell and hear of changes on *channel*."""
        self._client = client
        self._key = key
        self._channel = channel
        self._notifications = Notifications(partial(_RedisListener, client, channel))

    def get(self) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.get`."""
        raw = self._client.get(self._key)
        if raw is None:
            raise RecordNotFound(f"{self.describe()} does not exist")
        try:
            record = ElectionRecord.from_json(raw)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._client.damaged(self._key, f"it is no election's record ({shown(error)})") from error
        self._notifications.seen(record.holder_identity)
        return StoredRecord(record, raw)

    def create(self, record: ElectionRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.create`."""
        return self._swap(record, b"", "")

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.update`."""
        return self._swap(record, previous.version, previous.record.holder_identity)

    def _swap(self, record: ElectionRecord, seen: str | bytes, holder: str) -> StoredRecord:
        raw = json.dumps({**record.to_json(), "revision": secrets.token_hex(8)}).encode()
        announcement = f"!{record.holder_identity}" if record.holder_identity != holder else ""
        if not self._client.run("swap", [self._key], [seen, raw, announcement, self._channel]):
            raise RecordConflict(f"{self.describe()} holds something else than what was seen")
        self._notifications.seen(record.holder_identity)
        return StoredRecord(record, raw)

    def wait(self, timeout: float) -> None:
        """See :meth:`celery_leader.election.Lock.wait`."""
        self._notifications.wait(timeout)

    def interrupt(self) -> None:
        """See :meth:`celery_leader.election.Lock.interrupt`."""
        self._notifications.interrupt()

    def describe(self) -> str:
        """See :meth:`celery_leader.election.Lock.describe`."""
        return f"{self._client.where} key {self._key}"

    def close(self) -> None:
        """See :meth:`celery_leader.election.Lock.close`."""
        self._notifications.close()
        self._client.close()


class _RedisListener(Listener):
    """A subscription to the channel of one election."""

    def __init__(self, client: RedisClient, channel: str, notifications: Notifications) -> None:
        self._client = client
        self._channel = channel
        self._connection: Any = None
        super().__init__(notifications, channel)

    @contextmanager
    def subscription(self) -> Iterator[Callable[[float], list[str]]]:
        with self._client.subscription(self._channel, self._opened) as subscription:
            yield partial(_wait, subscription)

    def stop(self) -> None:
        """End at once: cut the connection, whatever is awaited from it."""
        super().stop()
        if self._connection is not None:
            cut(self._connection)

    def _opened(self, connection: Any) -> None:
        self._connection = connection
        if self._stopping.is_set():  # asked last: whoever stops meanwhile cuts this one
            raise OSError("nobody listens any more")


def _wait(subscription: PubSub, timeout: float) -> list[str]:
    message: dict[str, Any] | None = subscription.get_message(timeout=timeout)
    return [message["data"].decode(errors="replace")] if message else []
