"""Counts from the workers' diary: who led when, which ticks ran, which ran twice, which never ran."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

SLACK = 1.0  # seconds; a tick that is later shows that another tick is missing


@dataclass
class Tally:
    """The lines of the diary so far."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, diary: Path) -> Tally:
        text = diary.read_text() if diary.exists() else ""
        return cls([json.loads(line) for line in text.splitlines()])

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    @property
    def leaders(self) -> list[str]:
        """The nodes that led, in order."""
        return [_node(line) for line in self.of("started")]

    def started_after(self, at: float) -> dict[str, Any] | None:
        """Return the diary's line about the first term that started after *at*, in seconds of CLOCK_MONOTONIC."""
        return next((line for line in self.of("started") if line["at"] > at), None)

    def leader(self) -> dict[str, Any] | None:
        """Return the diary's line about the current term's start. A killed leader's term seems to continue."""
        started = self.of("started")
        ended = {line["token"] for line in self.of("stopped")}
        return started[-1] if started and started[-1]["token"] not in ended else None

    def ticks(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Return the ticks that ran, by task and due time."""
        ran = defaultdict(list)
        for line in self.of("ran"):
            ran[line["task"], line["due_at"]].append(line)
        return dict(ran)

    def twice(self) -> list[str]:
        """Return the ticks that ran twice.

        A message that a killed worker had taken does not count twice: the broker delivers it again, and marks it so.
        """
        return [
            f"{task} due {due_at}"
            for (task, due_at), ran in self.ticks().items()
            if len([line for line in ran if not line["redelivered"]]) > 1
        ]

    def lost(
        self, claimed: dict[str, int], waiting: dict[str, int], periods: dict[str, float], vacant: float
    ) -> list[str]:
        """Return the ticks that are missing.

        Args:
            claimed: How many ticks of each task the ledger counts.
            waiting: How many messages of each task are still in the broker.
            periods: Seconds between two ticks of a task.
            vacant: The longest time without a leader, in seconds; a task sends one tick for its missed runs.
        """
        ticks = self.ticks()
        missing = []
        for task, count in claimed.items():
            ran = sum(name == task for name, _ in ticks)
            if ran + waiting.get(task, 0) < count:
                missing.append(f"{task}: {count} were claimed, {ran} ran")
        for task, period in periods.items():
            due = sorted(datetime.fromisoformat(due_at).timestamp() for name, due_at in ticks if name == task)
            for before, after in itertools.pairwise(due):
                if after - before > period + vacant + SLACK:
                    missing.append(f"{task}: nothing was due for {after - before:.1f} s")
        return missing


def _node(line: dict[str, Any]) -> str:
    return str(line["identity"]).partition("@")[0]
