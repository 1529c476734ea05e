"""The record of an election, which a store keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from celery_leader.election.limits import (
    EARLIEST,
    LARGEST_RECORD,
    LATEST,
    LONGEST,
    LONGEST_NAME,
    TOO_MANY,
    is_count,
    is_name,
    is_number,
    is_time,
    shown_value,
)

#: The lease (seconds) in the record of a released lease: as good as over, for any reader.
RELEASED_LEASE = 1.0


@dataclass(frozen=True)
class ElectionRecord:
    """The one record of an election, as all candidates see it.

    The times are for people: no decision compares them between machines, whose wall clocks may differ by
    any amount. Candidates watch the record *change* and measure its age by their own clocks.

    Attributes:
        holder_identity: The candidate that holds the lease; empty when none does.
        lease_duration: How long (seconds) others must see the record unchanged before they may take it over.
        acquire_time: When the current term began (UTC), by the holder's clock.
        renew_time: When the holder last wrote (UTC), by the holder's clock.
        leader_transitions: How often the lease passed to a new term since the creation of the record.
        fencing_token: The number of the current term; see :mod:`celery_leader.election.term`.
        deployment: The deployment of the holder; see :class:`~celery_leader.election.ElectionConfig`.

    Raises:
        ValueError: A field has a value that no elector writes (see :mod:`celery_leader.election.limits`), so the record
            is damaged. The message names the field and shows the value.
    """

    holder_identity: str = ""
    lease_duration: float = 15.0
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    leader_transitions: int = 0
    fencing_token: int = 0
    deployment: str = ""

    def __post_init__(self) -> None:
        """Refuse values that no elector writes."""
        for field, (is_good, expected) in _RULES.items():
            value = getattr(self, field)
            if not is_good(value):
                raise ValueError(f"{field} must be {expected}, got {shown_value(value)}")

    def released(self, now: datetime) -> ElectionRecord:
        """Return the record that the holder leaves behind: without a holder, and with the token to exceed."""
        return replace(self, holder_identity="", lease_duration=RELEASED_LEASE, acquire_time=now, renew_time=now)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values.

        The token is a decimal string: readers whose numbers are doubles (Lua, JavaScript) would round it.
        """
        return {
            "holder_identity": self.holder_identity,
            "lease_duration": self.lease_duration,
            "acquire_time": _time_to_text(self.acquire_time),
            "renew_time": _time_to_text(self.renew_time),
            "leader_transitions": self.leader_transitions,
            "fencing_token": str(self.fencing_token),
            "deployment": self.deployment,
        }

    @classmethod
    def from_json(cls, values: object) -> ElectionRecord:
        """Return the record that :meth:`to_json` wrote. Fields of a later version are ignored.

        Args:
            values: A mapping, or its JSON text.

        Raises:
            ValueError: *values* are not a record; the message says why.
        """
        if isinstance(values, (str, bytes)):
            values = _parsed(values)
        if not isinstance(values, dict):
            raise ValueError(f"an election's record is a JSON object, got {type(values).__name__}")
        missing = {"holder_identity", "lease_duration", "fencing_token"} - values.keys()
        if missing:
            raise ValueError(f"an election's record has the field(s) {', '.join(sorted(missing))}; they are missing")
        return cls(
            holder_identity=values["holder_identity"],
            lease_duration=values["lease_duration"],
            acquire_time=_time_from_text(values.get("acquire_time")),
            renew_time=_time_from_text(values.get("renew_time")),
            leader_transitions=values.get("leader_transitions", 0),
            fencing_token=_token_from_text(values["fencing_token"]),
            deployment=values.get("deployment", ""),
        )


def _parsed(text: str | bytes) -> object:
    if len(text) > LARGEST_RECORD:
        raise ValueError(f"an election's record has {LARGEST_RECORD} bytes at most, got {len(text)}")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("an election's record is one JSON object, got many in one another") from None


def _is_duration(value: object) -> bool:
    return is_number(value) and 0 <= value <= LONGEST


def _is_time_or_none(value: object) -> bool:
    return value is None or is_time(value)


_NAME = f"text in UTF-8 of {LONGEST_NAME} characters at most"
_COUNT = f"a whole number from 0 to {TOO_MANY - 1}"
_TIME = f"a time between {EARLIEST:%Y} and {LATEST:%Y} with its zone, or none"
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "holder_identity": (is_name, _NAME),
    "lease_duration": (_is_duration, f"a number of seconds from 0 to {LONGEST:.0f} (ten years)"),
    "acquire_time": (_is_time_or_none, _TIME),
    "renew_time": (_is_time_or_none, _TIME),
    "leader_transitions": (is_count, _COUNT),
    "fencing_token": (is_count, _COUNT),
    "deployment": (is_name, _NAME),
}


def _token_from_text(value: object) -> int:
    """Return the token in *value*: text of digits, or a JSON number."""
    digits = value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"fencing_token must be {_COUNT}, got {shown_value(value)}")
    return int(digits)


def _time_to_text(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(timezone.utc).isoformat(timespec="microseconds")


def _time_from_text(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"a time is ISO 8601 text, got {shown_value(value)}")
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
