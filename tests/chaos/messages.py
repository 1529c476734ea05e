"""The messages in the broker at the end, compared with the ticks that were due. Each check returns violations.

The beat is not asked: when a message was sent is stamped by the project that publishes it, what was due follows from
the schedule and from what was sent before, and what may have held it up is known to whoever did the harm. All times
here are wall-clock times, in seconds, of the one machine on which all of it runs.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import amqp
import redis

#: Seconds that two busy cores may add to any wait. A missing tick of the entry `seven` still shows.
SLACK = 3.0
#: How much closer than their period two ticks may be. By their due times: a leader that could not write its claims was
#: some hundredths of a second late each time, and its successor counts from before. By when they were sent: more.
CLOSER_DUE, CLOSER_SENT = 0.1, 0.5
#: How far the clock that stamps a message may be behind the beat's.
EARLY = 0.01


class LastClaim(NamedTuple):
    """An entry in the ledger: how many ticks were claimed, whether the last was sent, and its task id."""

    count: int
    sent: bool
    id: str


@dataclass(frozen=True)
class Message:
    """One message of a tick. *due* is the due time that the beat wrote; None when it wrote none."""

    entry: str
    id: str
    sent_at: float
    due: float | None = None
    token: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault of the fleet, and what it excuses.

    Attributes:
        kind: What was done.
        begun: When.
        over: Until when nothing needs to be sent because of it.
        resends: Whether a later term may send again what was sent meanwhile.
        loses_answers: Whether the same term may: its broker did not tell it what had arrived.
    """

    kind: str
    begun: float
    over: float
    resends: bool = False
    loses_answers: bool = False

    def touches(self, start: float, end: float) -> bool:
        """Return whether it had to do with the time from *start* to *end*."""
        return self.begun <= end and start <= self.over + SLACK


@dataclass(frozen=True)
class Every:
    """Due *period* seconds after the last run, from *since* to *until*."""

    period: float
    since: float = -math.inf
    until: float = math.inf


@dataclass(frozen=True)
class Minutely:
    """Due when a minute begins, in a time zone whose minutes begin *offset* seconds earlier."""

    offset: float = 0.0

    def minute(self, moment: float) -> float:
        """Return when the minute of *moment* began."""
        return (moment + self.offset) // 60 * 60 - self.offset


@dataclass(frozen=True)
class Account:
    """The messages of one run in the order of their arrival, with the schedule and the faults.

    Attributes:
        messages: All that ever arrived.
        schedule: The entries.
        faults: All that was done.
        since: When everything worked for the first time.
        until: When the fleet was asked to stop; everything worked then.
    """

    messages: Sequence[Message]
    schedule: Mapping[str, Every | Minutely]
    faults: Sequence[Fault]
    since: float
    until: float

    def excused_until(self, due: float) -> float:
        """Return by when a tick that was due at *due* must have been sent."""
        end = due
        while later := [f.over for f in self.faults if f.begun <= end + SLACK and f.over > end]:
            end = max(later)
        return end + SLACK

    def firsts(self, entry: str) -> list[Message]:
        """Return of each tick of *entry* the message that was sent first, in the order of sending."""
        first: dict[str, Message] = {}
        for message in sorted(self.messages, key=lambda message: message.sent_at):
            if message.entry == entry:
                first.setdefault(message.id, message)
        return list(first.values())

    def complaints(self, ledger: Mapping[str, LastClaim]) -> list[str]:
        """Return all that is wrong, given the *ledger* in the end; each method below tells a part."""
        return [*self.twice(), *self.early(), *self.stale(), *self.unexcused_resends(), *self.lost(ledger)]

    # -- twice -------------------------------------------------------------------------------------------------

    def twice(self) -> list[str]:
        """Return the ticks that have two ids, and ticks that are closer than their period."""
        return [
            wrong
            for entry, when in self.schedule.items()
            for wrong in (self._twice_a_minute(entry, when) if isinstance(when, Minutely) else self._close(entry, when))
        ]

    def _twice_a_minute(self, entry: str, when: Minutely) -> Iterator[str]:
        ids = defaultdict(list)
        for first in self.firsts(entry):
            ids[when.minute(_due(first))].append(first.id)
        for minute, found in ids.items():
            if len(found) > 1:
                yield f"{entry}: the minute of {_clock(minute)} was sent as {found}"

    def _close(self, entry: str, when: Every) -> Iterator[str]:
        for before, after in itertools.pairwise(sorted(self.firsts(entry), key=_due)):
            closer = CLOSER_SENT if after.due is None else CLOSER_DUE
            if (gap := _due(after) - _due(before)) < when.period - closer:
                yield f"{entry}: {after.id} due {_clock(_due(after))} is {gap:.3f} s after {before.id}"

    def early(self) -> list[str]:
        """Return the messages that were sent before they were due."""
        return [
            f"{message.entry}: {message.id} was sent {message.due - message.sent_at:.3f} s early"
            for message in self.messages
            if message.due is not None and message.due > message.sent_at + EARLY
        ]

    def stale(self) -> list[str]:
        """Return the ticks that a term sent, and only that term, after a later term had sent something."""
        copies, newest, wrong = self._copies(), 0, []
        for message in self.messages:
            token = int(message.token) if message.token.isdigit() else 0
            if token < newest and len(copies[message.id]) == 1:
                wrong.append(f"{message.entry}: {message.id} was sent by term {token} after {newest} had begun")
            newest = max(newest, token)
        return wrong

    # -- again -------------------------------------------------------------------------------------------------

    def resent(self) -> int:
        """Return how many messages carry an id that was there before."""
        return len(self.messages) - len(self._copies())

    def unexcused_resends(self) -> list[str]:
        """Return the messages that were sent again though no leader was harmed between sending and confirming."""
        wrong = []
        for copies in self._copies().values():
            for number, again in enumerate(copies[1:], 1):
                same_term = again.token in {copy.token for copy in copies[:number]}
                times = sorted([copies[number - 1].sent_at, again.sent_at])
                touched = [fault for fault in self.faults if fault.touches(times[0], times[1])]
                if not any(fault.loses_answers if same_term else fault.resends for fault in touched):
                    by = "the same term" if same_term else "another term"
                    wrong.append(f"{again.entry}: {again.id} was sent again by {by} at {_clock(again.sent_at)}")
        return wrong

    def _copies(self) -> dict[str, list[Message]]:
        copies = defaultdict(list)
        for message in self.messages:
            copies[message.id].append(message)
        return copies

    # -- lost --------------------------------------------------------------------------------------------------

    def lost(self, ledger: Mapping[str, LastClaim]) -> list[str]:
        """Return the claims without a message, and the ticks that are missing without a fault as excuse."""
        return [*self._claimed_and_missing(ledger), *self._due_and_missing(), *self.late()]

    def _claimed_and_missing(self, ledger: Mapping[str, LastClaim]) -> Iterator[str]:
        for entry, last in ledger.items():
            ids = {message.id for message in self.messages if message.entry == entry}
            if not last.sent:
                yield f"{entry}: its last claim, {last.id}, was never confirmed"
            if last.id and last.id not in ids:
                yield f"{entry}: its last claim, {last.id}, never arrived"
            if len(ids) < last.count:
                yield f"{entry}: {last.count} ticks were claimed, {len(ids)} arrived"

    def _due_and_missing(self) -> Iterator[str]:
        for entry, when in self.schedule.items():
            yield from self._minutes(entry, when) if isinstance(when, Minutely) else self._gaps(entry, when)

    def _minutes(self, entry: str, when: Minutely) -> Iterator[str]:
        there = {when.minute(_due(first)) for first in self.firsts(entry)}
        minute = when.minute(self.since) + 60
        while (latest := self.excused_until(minute)) <= self.until:
            # Minutes that begin before anybody can send again become one, the last.
            if minute not in there and latest - SLACK < minute + 60:
                yield f"{entry}: the minute of {_clock(minute)} is missing"
            minute += 60

    def _gaps(self, entry: str, when: Every) -> Iterator[str]:
        since, until = max(self.since, when.since), min(self.until, when.until)
        # All of them, not the firsts: a leader that resends a tick unknown to its ledger counts from there.
        sent = sorted(m.sent_at for m in self.messages if m.entry == entry and since <= m.sent_at <= until)
        for before, after in itertools.pairwise([since, *sent, until]):
            if after > self.excused_until(before + when.period):
                yield f"{entry}: nothing was sent from {_clock(before)} on for {after - before:.1f} s"

    def late(self) -> list[str]:
        """Return the ticks that were sent later than any fault explains."""
        return [
            f"{entry}: {first.id} was sent {first.sent_at - first.due:.1f} s late, at {_clock(first.sent_at)}"
            for entry in self.schedule
            for first in self.firsts(entry)
            if first.due is not None and first.sent_at > self.excused_until(first.due)
        ]


def read_messages(broker: str, queue: str) -> list[Message]:
    """Return the messages of ticks that lie in *queue* of *broker*, the first that arrived first."""
    if broker.startswith("amqp"):
        return list(_take(broker, queue))
    with redis.Redis.from_url(broker) as client:
        return list(decode(reversed(client.lrange(queue, 0, -1))))


def _take(broker: str, queue: str) -> Iterator[Message]:
    """Take the messages out of a RabbitMQ, which shows them no other way."""
    with amqp.Connection(host=urlsplit(broker).netloc.rpartition("@")[2]) as connection:
        channel = connection.channel()
        while found := channel.basic_get(queue, no_ack=True):
            yield _message(found.headers, found.body)


def decode(raw: Iterable[bytes]) -> Iterator[Message]:
    """Read messages as Celery writes them into a Redis."""
    for text in raw:
        envelope = json.loads(text)
        yield _message(envelope["headers"], base64.b64decode(envelope["body"]))


def _message(headers: Mapping[str, Any], body: str | bytes) -> Message:
    due = headers.get("leader_due_at")
    return Message(
        entry=json.loads(body)[0][0],
        id=headers["id"],
        sent_at=headers["chaos_sent_at"],
        due=datetime.fromisoformat(due).timestamp() if due else None,
        token=headers["leader_token"],
    )


def _due(message: Message) -> float:
    return message.sent_at if message.due is None else message.due


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment):%H:%M:%S.%f}"[:-3]  # noqa: DTZ006  # for people who look at the log
