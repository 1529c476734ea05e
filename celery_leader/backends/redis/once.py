"""What became of ticks at their consumers, a key each."""

from __future__ import annotations

import logging
import math
from typing import Any

from celery_leader.backends.base import Admission
from celery_leader.backends.redis.client import RedisClient

logger = logging.getLogger(__name__)


class RedisOnceStore:
    """Keys that end by themselves.

    A server with a policy of ``volatile-*`` that runs out of memory evicts them before their time; a tick that is
    delivered again after that runs again.
    """

    def __init__(self, client: RedisClient, prefix: str) -> None:
        """Use the keys that begin with *prefix*."""
        self._client = client
        self._prefix = prefix

    def begin(self, tick: str, owner: str, seconds: float) -> Admission:
        """See :meth:`celery_leader.backends.OnceStore.begin`."""
        outcome, *rest = self._run("begin", tick, owner, seconds)
        if outcome == "busy":
            return Admission(wait=max(0, int(rest[0])) / 1000)
        if outcome == "endless":
            logger.warning(
                "%s%s says that a tick runs, but has no TTL: no worker wrote that. It ends in %.0f s; until then the "
                "tick waits. DEL it to let the tick run now.", self._prefix, tick, seconds,
            )  # fmt: skip
            return Admission(wait=seconds)
        return Admission(may_run=outcome == "begun", is_done=outcome == "done")

    def done(self, tick: str, owner: str, seconds: float) -> bool:
        """See :meth:`celery_leader.backends.OnceStore.done`."""
        return bool(self._run("done", tick, owner, seconds)[0] == "held")

    def release(self, tick: str, owner: str) -> None:
        """See :meth:`celery_leader.backends.OnceStore.release`."""
        self._run("release", tick, owner)

    def close(self) -> None:
        """See :meth:`celery_leader.backends.OnceStore.close`."""
        self._client.close()

    def _run(self, verb: str, tick: str, owner: str, seconds: float = 0.0) -> list[Any]:
        milliseconds = str(max(1, math.ceil(seconds * 1000)))
        outcome, *rest = self._client.run("once", [f"{self._prefix}{tick}"], [verb, owner, milliseconds])
        return [outcome.decode() if isinstance(outcome, bytes) else outcome, *rest]
