"""The claims of one election in one hash."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any

from celery_leader.backends.redis.client import RedisClient, damaged
from celery_leader.exceptions import LeadershipLost, RecordNotFound
from celery_leader.ledger import Claim, Tick, as_utf8

logger = logging.getLogger(__name__)

_BATCH = 500  # a script holds up all of Redis while it runs
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIELD = "entry:"


class RedisLedger:
    """A hash: which term opened it, and the last claim of each entry."""

    def __init__(self, client: RedisClient, election: str, key: str) -> None:
        """Use the hash *key* for the claims of *election*."""
        self._client = client
        self._election = election
        self._key = key

    def open(self, token: int) -> Mapping[str, Claim]:
        """See :meth:`celery_leader.ledger.Ledger.open`."""
        answer = [_text(part) for part in self._run("open", token)]
        fields = dict(zip(answer[::2], answer[1::2], strict=True))
        claims = (self._decode(field, value) for field, value in fields.items() if field.startswith(_FIELD))
        return {claim.tick.entry: claim for claim in claims if claim}

    def claim(self, token: int, claims: Sequence[Claim]) -> Sequence[bool]:
        """See :meth:`celery_leader.ledger.Ledger.claim`."""
        return [bool(result) for result in self._run("claim", token, *_batches(claims))]

    def confirm(self, token: int, claims: Iterable[Claim]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.confirm`."""
        self._run("confirm", token, *_batches(claims, _due))

    def restore(self, token: int, claims: Iterable[Claim]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.restore`."""
        self._run("restore", token, *_batches(claims))

    def forget(self, token: int, entries: Iterable[str]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.forget`."""
        self._run("forget", token, [as_utf8(f"{_FIELD}{entry}") for entry in entries])

    def close(self) -> None:
        """See :meth:`celery_leader.ledger.Ledger.close`."""
        self._client.close()

    def _run(self, verb: str, token: int, *batches: Sequence[bytes]) -> list[Any]:
        """Do *verb* with each of *batches*, at least once; return all results in order."""
        arguments = [[verb, str(token), *batch] for batch in batches or [[]]]
        answers = self._client.run_all("ledger", [self._key], arguments)
        return [result for outcome, *results in answers for result in self._checked(_text(outcome), results, token)]

    def _checked(self, outcome: str, results: list[Any], token: int) -> list[Any]:
        if outcome == "stale":
            raise LeadershipLost(
                f"Election {self._election!r}: the ledger was opened by token {_text(results[0])}; {token} is over"
            )
        if outcome == "lost":
            raise RecordNotFound(f"Election {self._election!r}: the ledger is not as token {token} opened it")
        if outcome == "damaged":
            raise damaged(self._client.place, self._key, f"its token is {_text(results[0])!r}")
        return results

    def _decode(self, field: str, value: str) -> Claim | None:
        """Return the claim in *value*; one that can't be read is no claim, and the next one takes its place."""
        entry = field.removeprefix(_FIELD)
        try:
            due, sent, claimed, run_count, length, rest = value.split("|", 5)
            due_at, task_id, schedule = _time(due), rest[: int(length)], rest[int(length) :]
            return Claim(
                tick=Tick(self._election, entry, due_at),
                task_id=task_id,
                run_count=int(run_count),
                claimed_at=due_at if claimed == due else _time(claimed),
                schedule=sys.intern(schedule),  # thousands of entries share a few
                sent=sent == "1",
            )
        except (ValueError, OverflowError) as error:
            logger.warning(
                "Election %r: the claim of %r in %s can't be read (%s) and counts for nothing: %r",
                self._election, entry, self._key, error, value,
            )  # fmt: skip
            return None


def _encode(claim: Claim) -> str:
    """Return the claim as ``ledger.lua`` describes it."""
    due, claimed_at, task_id = _due(claim), _microseconds(claim.claimed_at), claim.task_id
    return f"{due}|{claim.sent:d}|{claimed_at}|{claim.run_count}|{len(task_id)}|{task_id}{claim.schedule}"


def _due(claim: Claim) -> str:
    return _microseconds(claim.tick.due_at)


def _batches(claims: Iterable[Claim], encode: Callable[[Claim], str] = _encode) -> Iterator[list[bytes]]:
    """Return the script's arguments for *claims*, so many at a time: each one's field and what *encode* makes of it.

    Raises:
        UnstorableClaim: Something is no text in UTF-8.
    """
    iterator = iter(claims)
    while batch := list(islice(iterator, _BATCH)):
        yield [as_utf8(part) for claim in batch for part in (f"{_FIELD}{claim.tick.entry}", encode(claim))]


def _microseconds(time: datetime) -> str:
    since = time - _EPOCH
    return str((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


def _time(microseconds: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(microseconds))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
