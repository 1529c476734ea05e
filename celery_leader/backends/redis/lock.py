"""The record of one election under one key."""

from __future__ import annotations

import json
import logging
import secrets
import threading

from celery_leader.backends.redis.client import RedisClient, damaged
from celery_leader.election import ElectionRecord, StoredRecord
from celery_leader.exceptions import LockUnavailable, RecordConflict, RecordNotFound

logger = logging.getLogger(__name__)

#: How long (seconds) one look for a message lasts, and how long to leave a server alone that cut the subscription.
LISTEN_TIME = 5.0
RESUBSCRIBE_DELAY = 1.0


class RedisLock:
    """A key that holds the record as JSON. Its very bytes are the version; a random revision makes them differ.

    The key has no TTL: it is not what ends a lease, and ``volatile-*`` eviction leaves it alone.
    """

    def __init__(self, client: RedisClient, key: str, channel: str) -> None:
        """Use *key* for the record, and tell and hear of changes on *channel*."""
        self._client = client
        self._key = key
        self._channel = channel
        self._woken = threading.Event()
        self._listener: _Listener | None = None

    def get(self) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.get`."""
        raw = self._client.get(self._key)
        if raw is None:
            raise RecordNotFound(f"{self.describe()} does not exist")
        try:
            return StoredRecord(ElectionRecord.from_json(raw), raw)
        except (ValueError, TypeError, OverflowError) as error:
            raise damaged(self._client.place, self._key, f"it is no election's record ({error})") from error

    def create(self, record: ElectionRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.create`."""
        return self._swap(record, b"", "")

    def update(self, record: ElectionRecord, previous: StoredRecord) -> StoredRecord:
        """See :meth:`celery_leader.election.Lock.update`."""
        return self._swap(record, previous.version, previous.record.holder_identity)

    def _swap(self, record: ElectionRecord, seen: str | bytes, holder: str) -> StoredRecord:
        raw = json.dumps({**record.to_json(), "revision": secrets.token_hex(8)}).encode()
        announcement = f"!{record.holder_identity}" if record.holder_identity != holder else ""
        if not self._client.run("swap", [self._key, self._channel], [seen, raw, announcement]):
            raise RecordConflict(f"{self.describe()} holds something else than what was seen")
        return StoredRecord(record, raw)

    def wait(self, timeout: float) -> None:
        """See :meth:`celery_leader.election.Lock.wait`."""
        if self._listener is None:
            self._listener = _Listener(RedisClient(self._client.place), self._channel, self._woken)
        self._woken.wait(timeout)
        self._woken.clear()

    def interrupt(self) -> None:
        """See :meth:`celery_leader.election.Lock.interrupt`."""
        self._woken.set()

    def describe(self) -> str:
        """See :meth:`celery_leader.election.Lock.describe`."""
        return f"{self._client.place.description} key {self._key}"

    def close(self) -> None:
        """See :meth:`celery_leader.election.Lock.close`."""
        listener, self._listener = self._listener, None
        if listener:
            listener.stop()
        self._client.close()


class _Listener:
    """Hears of changes on a thread and a connection of its own. What it misses costs one poll."""

    def __init__(self, client: RedisClient, channel: str, woken: threading.Event) -> None:
        self._client = client
        self._channel = channel
        self._woken = woken
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="celery-leader-listener", daemon=True).start()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except LockUnavailable as error:
                logger.debug("Not told of changes for now: %s", error)
                self._client.close()
                self._stopping.wait(RESUBSCRIBE_DELAY)
            except Exception:  # a listener gives hints; whatever is wrong with it, the election polls
                logger.exception("Listening to %s failed", self._channel)
                self._stopping.wait(RESUBSCRIBE_DELAY)
        self._client.close()

    def _listen(self) -> None:
        with self._client.subscription(self._channel) as subscription:
            while not self._stopping.is_set():
                if subscription.get_message(timeout=LISTEN_TIME):
                    self._woken.set()
