"""The claims of one election in one hash."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from shlex import quote
from typing import Any

from celery_leader.backends.reading import Reading
from celery_leader.backends.redis.client import RedisClient
from celery_leader.ledger import BATCH, Claim, Refusals, Tick, batches, require_names

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIELD = b"entry:"
_TOKEN = re.compile("[1-9][0-9]{0,15}")  # as the script knows one


class RedisLedger:
    """A hash: which term opened it, and the last claim of each entry."""

    def __init__(self, client: RedisClient, election: str, key: str) -> None:
        """Use the hash *key* for the claims of *election*."""
        self._client = client
        self._election = election
        self._key = key
        self._refusals = Refusals(election, f"{client.where} key {key}", f"redis-cli HDEL {quote(key)} token")

    def open(self, token: int) -> Mapping[str, Claim]:
        """See :meth:`celery_leader.ledger.Ledger.open`."""
        reading = Reading[bytes]()
        for field, value in self._fields(token):
            if field.startswith(_FIELD):
                entry = field.removeprefix(_FIELD)
                reading.take(field, entry, self._decode, entry, value)
        for fields in batches(reading.damaged):
            self._run("forget", token, fields)
        reading.report(self._refusals.where)
        return reading.claims

    def _fields(self, token: int) -> Iterator[tuple[bytes, bytes]]:
        """Open the ledger and yield all fields and their values, some of them twice perhaps.

        So many at a time: Redis does nothing else while it hands them out, and each call has its own time.
        """
        cursor, *parts = self._run("open", token, ["0", str(BATCH)])
        while True:
            yield from zip(parts[::2], parts[1::2], strict=True)
            if cursor == b"0":
                return
            cursor, *parts = self._run("page", token, [cursor, str(BATCH)])

    def claim(self, token: int, claims: Sequence[Claim]) -> Sequence[bool]:
        """See :meth:`celery_leader.ledger.Ledger.claim`."""
        return [bool(result) for result in self._run("claim", token, *_arguments(claims))]

    def confirm(self, token: int, claims: Iterable[Claim]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.confirm`."""
        self._run("confirm", token, *_arguments(claims, _due))

    def restore(self, token: int, claims: Iterable[Claim]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.restore`."""
        self._run("restore", token, *_arguments(claims))

    def forget(self, token: int, entries: Iterable[str]) -> None:
        """See :meth:`celery_leader.ledger.Ledger.forget`."""
        self._run("forget", token, *batches(map(_field, entries)))

    def close(self) -> None:
        """See :meth:`celery_leader.ledger.Ledger.close`."""
        self._client.close()

    def _run(self, verb: str, token: int, *parts: Sequence[str | bytes]) -> list[Any]:
        """Do *verb* with each of *parts*, at least once; return all results in order."""
        arguments = [[verb, str(token), *part] for part in parts or [[]]]
        results = []
        for outcome, *answer in self._client.run_all("ledger", [self._key], arguments):
            if outcome == b"refused":
                self._refusals.check(token, _token(*answer), must_be_open=True)
            results += answer
        return results

    def _decode(self, entry: bytes, value: bytes) -> Claim:
        due, sent, claimed, run_count, length, rest = value.decode().split("|", 5)
        due_at, split = _time(due), int(length)
        if not 0 <= split <= len(rest):
            raise ValueError(f"an id of {split} characters in {len(rest)}")
        return Claim(
            tick=Tick(self._election, entry.decode(), due_at),
            task_id=rest[:split],
            run_count=int(run_count),
            claimed_at=due_at if claimed == due else _time(claimed),
            schedule=sys.intern(rest[split:]),  # thousands of entries share a few
            sent=bool(("0", "1").index(sent)),
        )


def _encode(claim: Claim) -> str:
    """Return the claim as ``ledger.lua`` describes it."""
    due, claimed_at, task_id = _due(claim), _microseconds(claim.claimed_at), claim.task_id
    return f"{due}|{claim.sent:d}|{claimed_at}|{claim.run_count}|{len(task_id)}|{task_id}{claim.schedule}"


def _field(entry: str) -> bytes:
    return _FIELD + entry.encode()


def _due(claim: Claim) -> str:
    return _microseconds(claim.tick.due_at)


def _arguments(claims: Iterable[Claim], encode: Callable[[Claim], str] = _encode) -> Iterator[list[str | bytes]]:
    """Yield the script's arguments for each batch of *claims*: every claim's field, and what *encode* makes of it.

    Raises:
        UnstorableClaim: A name is too long, or no text in UTF-8.
    """
    for batch in batches(claims):
        require_names(batch)
        yield [part for claim in batch for part in (_field(claim.tick.entry), encode(claim))]


def _token(opened: bytes | None) -> int | str | None:
    """Return the token that a refusal names: a number, or the damaged text."""
    text = None if opened is None else opened.decode(errors="replace")
    return int(text) if text and _TOKEN.fullmatch(text) else text


def _microseconds(time: datetime) -> str:
    since = time - _EPOCH
    return str((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


def _time(microseconds: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(microseconds))
