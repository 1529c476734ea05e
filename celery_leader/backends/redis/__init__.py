"""Elections in Redis or Valkey. The only place that imports redis."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery_leader.backends.redis.address import parse
from celery_leader.backends.redis.client import RedisClient
from celery_leader.backends.redis.ledger import RedisLedger
from celery_leader.backends.redis.lock import RedisLock
from celery_leader.backends.redis.once import RedisOnceStore
from celery_leader.exceptions import StoreUnavailable

__all__ = ["RedisBackend", "RedisLedger", "RedisLock", "RedisOnceStore", "open_redis"]

logger = logging.getLogger(__name__)

_DEFAULT_PREFIX = "celery-leader"


class RedisBackend:
    """Locks and ledgers in one Redis. Each has a connection of its own, because each has a thread of its own."""

    def __init__(self, url: str, *, prefix: str, timeout: float, options: Mapping[str, Any]) -> None:
        """Read the URL; no connection is opened.

        Args:
            url: ``redis://``, ``rediss://``, ``sentinel://``, ``redis+cluster://`` or ``rediss+cluster://``.
            prefix: What all keys begin with.
            timeout: The longest (seconds) that one call may take.
            options: For redis-py's client; ``master_name`` for Sentinel.

        Raises:
            ConfigurationError: The URL can't be read, or an option is missing or unknown.
        """
        self._place = parse(url, timeout, options)
        self._prefix = prefix or _DEFAULT_PREFIX

    def lock(self, election: str) -> RedisLock:
        """See :meth:`celery_leader.backends.Backend.lock`."""
        return RedisLock(RedisClient(self._place), *self._keys(election, "record", "changes"))

    def ledger(self, election: str) -> RedisLedger:
        """See :meth:`celery_leader.backends.Backend.ledger`."""
        return RedisLedger(RedisClient(self._place), election, *self._keys(election, "ledger"))

    def once_store(self) -> RedisOnceStore:
        """See :meth:`celery_leader.backends.Backend.once_store`."""
        return RedisOnceStore(RedisClient(self._place), *self._keys("once", ""))

    def _keys(self, election: str, *names: str) -> list[str]:
        # In a cluster the part in braces alone decides which node keeps a key. A client talks to one node at a time:
        # all keys of an election are together, and so are all ticks of a once store.
        return [f"{self._prefix}:{{{election}}}:{name}" for name in names]

    def check(self) -> None:
        """See :meth:`celery_leader.backends.Backend.check`."""
        client = RedisClient(self._place)
        try:
            client.get(f"{self._prefix}:check")  # there is none; a PING would need every node of a cluster
            self._check_kind(client)
            self._check_eviction(client)
        finally:
            client.close()

    def _check_kind(self, client: RedisClient) -> None:
        try:
            is_node = client.is_node()
        except StoreUnavailable:  # INFO may be forbidden
            return
        if is_node and not self._place.is_cluster:
            raise client.is_no_cluster()

    def _check_eviction(self, client: RedisClient) -> None:
        try:
            policy = client.setting("maxmemory-policy")
        except StoreUnavailable:  # CONFIG is often forbidden
            return
        if policy.startswith("allkeys-"):
            logger.warning(
                "%s may evict any key (maxmemory-policy %s), the election's record too. "
                "Use a policy of noeviction or volatile-*, or a Redis of its own.",
                self.describe(), policy,
            )  # fmt: skip

    def describe(self) -> str:
        """See :meth:`celery_leader.backends.Backend.describe`."""
        return self._place.description


def open_redis(url: str, *, prefix: str, timeout: float, options: Mapping[str, Any]) -> RedisBackend:
    """Return the backend at *url*; see :func:`celery_leader.backends.open_backend`."""
    return RedisBackend(url, prefix=prefix, timeout=timeout, options=options)
