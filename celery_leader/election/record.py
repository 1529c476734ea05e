"""What a store keeps of an election."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

#: How long (seconds) the record of a released lease says that it lasts: as good as over, for any reader of it.
RELEASED_LEASE = 1.0


@dataclass(frozen=True)
class ElectionRecord:
    """The one record of an election, as all candidates see it.

    The times are for people: no decision compares them between machines, whose wall clocks may differ by
    any amount. Candidates watch the record *change* and measure its age by their own clocks.

    Attributes:
        holder_identity: Who holds the lease; empty when nobody does.
        lease_duration: How long (seconds) others must see the record unchanged before they may take it over.
        acquire_time: When the current term began (UTC), by the holder's clock.
        renew_time: When the holder last wrote (UTC), by the holder's clock.
        leader_transitions: How often the lease passed to a new term since the record was created.
        fencing_token: The number of the current term; see :mod:`celery_leader.election.term`.
        deployment: What the holder belongs to; see :class:`~celery_leader.election.ElectionConfig`.

    Raises:
        ValueError: A field has a value that no elector writes: the record is damaged.
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
        for field in ("holder_identity", "deployment"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field} must be text, got {getattr(self, field)!r}")
        if not _is_number(self.lease_duration) or not math.isfinite(self.lease_duration) or self.lease_duration < 0:
            raise ValueError(f"lease_duration must be a number of seconds from 0 up, got {self.lease_duration!r}")
        for field in ("leader_transitions", "fencing_token"):
            value = getattr(self, field)
            if not _is_number(value) or not math.isfinite(value) or value != int(value) or value < 0:
                raise ValueError(f"{field} must be a whole number from 0 up, got {value!r}")

    def released(self, now: datetime) -> ElectionRecord:
        """Return the record that the holder leaves behind: nobody's, with the token that the next one must exceed."""
        return replace(self, holder_identity="", lease_duration=RELEASED_LEASE, acquire_time=now, renew_time=now)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values.

        The token travels as a decimal string: readers whose numbers are doubles (Lua, JavaScript) would round it.
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
        """Return the record that :meth:`to_json` wrote; fields of a later version are ignored.

        Args:
            values: A mapping, or the JSON text of one.

        Raises:
            ValueError: It is not a record; the message says in what.
        """
        if isinstance(values, (str, bytes)):
            values = json.loads(values)
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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _token_from_text(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError(f"fencing_token must be a whole number from 0 up, got {value!r}") from None


def _time_to_text(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(timezone.utc).isoformat(timespec="microseconds")


def _time_from_text(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"a time is ISO 8601 text, got {value!r}")
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
