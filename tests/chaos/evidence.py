"""The proof in the log of a chaos run. Each check returns all violations, so that a test can print them."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

#: Whose leader runs the project's guarded tasks; beats may be led in another election.
GUARDED_ELECTION = "default"


class GrowingLog:
    """A log to which other processes write. It is asked many times a second, so each line is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_to = 0
        self._lines: list[dict[str, Any]] = []
        self._reading = threading.Lock()

    def lines(self) -> list[dict[str, Any]]:
        """Return a copy of all lines written so far."""
        with self._reading:
            if self._path.exists():
                with self._path.open("rb") as file:
                    file.seek(self._read_to)
                    whole = b"".join(line for line in file if line.endswith(b"\n"))
                self._read_to += len(whole)
                self._lines += map(json.loads, whole.splitlines())
            return self._lines.copy()


@dataclass
class Evidence:
    """The lines of a log, and the election whose promises they prove."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    election: str = "default"

    def of(self, what: str) -> list[dict[str, Any]]:
        """Return the lines of one kind."""
        return [line for line in self.lines if line["what"] == what]

    # -- trusts ------------------------------------------------------------------------------------------------

    def terms(self, election: str = "") -> list[tuple[float, float, int]]:
        """Return for each term of *election* from when to when somebody trusted it, and its token, in order.

        A trust ends when it is ended, or by itself.
        """
        began: dict[int, float] = {}
        until: dict[int, float] = {}
        for line in self.lines:
            if line.get("election") != (election or self.election):
                continue
            if line["what"] == "trust":
                began.setdefault(line["token"], line["at"])
                until[line["token"]] = line["until"]
            elif line["what"] == "trust-end":
                until[line["token"]] = min(until[line["token"]], line["at"])
        return sorted((began[token], until[token], token) for token in began)

    def overlaps(self) -> list[str]:
        """Return where two terms were trusted at once, and where a token did not grow."""
        terms = self.terms()
        wrong = []
        for (_, end, token), (start, _, following) in itertools.pairwise(terms):
            if start < end:
                wrong.append(f"terms {token} and {following} overlap by {end - start:.6f} s")
            if following <= token:
                wrong.append(f"token {following} follows {token}")
        return wrong

    # -- ticks -------------------------------------------------------------------------------------------------

    def twice(self) -> list[str]:
        """Return the ticks that have two ids."""
        ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        for line in self.of("tick"):
            ids[line["entry"], line["due"]].add(line["id"])
        return [f"{entry} due {due} was sent as {found}" for (entry, due), found in ids.items() if len(found) > 1]

    def repeated(self) -> int:
        """Return how many messages of ticks were executed again: sent again, or redelivered, with the same id."""
        counted = Counter(line["id"] for line in self.of("tick"))
        return sum(counted.values()) - len(counted)

    def redelivered(self) -> list[str]:
        """Return the messages that were executed again though no later term sent them again.

        A leader that stands still between sending and confirming leaves its successor no way to know: it sends the tick
        again, with the same id and its own token. Everything else is the broker's doing, or a fault of ours.
        """
        counted = Counter((line["id"], line["token"]) for line in self.of("tick"))
        return [
            f"message {message} of term {token} ran {count} times"
            for (message, token), count in counted.items()
            if count > 1
        ]

    def ticks(self, entry: str) -> list[float]:
        """Return when the ticks of *entry* that were executed were due, in order."""
        return sorted(
            {datetime.fromisoformat(each["due"]).timestamp() for each in self.of("tick") if each["entry"] == entry}
        )

    def lost(self, claimed: dict[str, int], periods: dict[str, float], longest_takeover: float) -> list[str]:
        """Return the ticks that are missing.

        Args:
            claimed: How many ticks of each entry the ledger counted.
            periods: The entries' periods in seconds.
            longest_takeover: How long nobody may have led at a stretch; ticks missed meanwhile become one.
        """
        wrong = []
        for entry, period in periods.items():
            dues = self.ticks(entry)
            if len(dues) < claimed.get(entry, 0):
                wrong.append(f"{entry}: {claimed.get(entry, 0)} ticks were claimed, {len(dues)} executed")
            for before, after in itertools.pairwise(dues):
                if after - before > period + longest_takeover:
                    wrong.append(f"{entry}: nothing was due for {after - before:.1f} s")
        return wrong

    def unclaimed(self, claimed: dict[str, int]) -> dict[str, int]:
        """Return how many more ticks of each entry were executed than the ledger counts."""
        entries = {str(each["entry"]) for each in self.of("tick")}
        more = {entry: len(self.ticks(entry)) - claimed.get(entry, 0) for entry in entries}
        return {entry: count for entry, count in more.items() if count > 0}

    # -- guarded tasks -----------------------------------------------------------------------------------------

    def guarded_wrong(self, sent: int, killed: set[int]) -> list[str]:
        """Return the violations by the guarded tasks 0 … *sent* - 1.

        Each ran once, and a leader let it begin. One that was running in a process of *killed* may run again.

        What counts is when it was let in: its process may stand still before its first line, for as long as it likes.
        """
        starts, ends = Counter(), Counter()  # type: ignore[var-annotated]
        wrong = []
        trusted_until = {token: until for _, until, token in self.terms(GUARDED_ELECTION)}
        for line in self.of("guarded-start"):
            starts[line["number"]] += 1
            if line["let_in"] >= trusted_until.get(line["token"], 0.0):
                wrong.append(f"guarded task {line['number']} began on a follower")
        for line in self.of("guarded-end"):
            ends[line["number"]] += 1
        broken_off = Counter(line["number"] for line in self.of("guarded-start") if line["pid"] in killed)
        for number in range(sent):
            if not ends[number]:
                wrong.append(f"guarded task {number} never ended; it began {starts[number]} times")
            elif starts[number] > 1 + broken_off[number]:
                wrong.append(f"guarded task {number} began {starts[number]} times")
        return wrong
