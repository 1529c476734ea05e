"""The demo's output: a table that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from tally import Tally

LAST_LINES = 12


class Screen(Protocol):
    """Shows the demo to people."""

    def say(self, text: str) -> None:
        """Show a line about the demo's next step."""

    def update(self, tally: Tally, alive: list[str]) -> None:
        """Show the new lines of the diary; called many times a second."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class NewLines:
    """The diary's lines since the last look, as text for people."""

    def __init__(self) -> None:
        self._seen = 0

    def of(self, tally: Tally) -> list[str]:
        new = tally.lines[self._seen :]
        self._seen = len(tally.lines)
        return [line for entry in new if (line := _as_line(entry))]


class PlainScreen:
    """One line for each event."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._new_lines = NewLines()

    def say(self, text: str) -> None:
        self._print(f"* {text}")

    def update(self, tally: Tally, alive: list[str]) -> None:
        for line in self._new_lines.of(tally):
            self._print(f"  {line}")

    def close(self) -> None:
        pass

    def _print(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:5.1f} s {text}", flush=True)


class TableScreen:
    """A table of the workers, with the last lines below the table."""

    def __init__(self) -> None:
        from rich.live import Live

        self._new_lines = NewLines()
        self._lines: list[str] = []
        self._live = Live(refresh_per_second=8)
        self._live.start()

    def say(self, text: str) -> None:
        self._lines.append(f"[bold yellow]{text}[/]")

    def update(self, tally: Tally, alive: list[str]) -> None:
        from rich.console import Group
        from rich.text import Text

        self._lines += self._new_lines.of(tally)
        last = [Text.from_markup(line) for line in self._lines[-LAST_LINES:]]
        self._live.update(Group(self._table(tally, alive), *last))

    def close(self) -> None:
        self._live.stop()

    def _table(self, tally: Tally, alive: list[str]) -> Any:
        from rich.table import Table

        table = Table("worker", "process", "leads", "terms", "ticks sent", "ticks run")
        leader = tally.leader()
        for ready in tally.of("ready"):
            node = str(ready["node"])
            name = node.partition("@")[0]
            tokens = {line["token"] for line in tally.of("started") if line["identity"].startswith(node)}
            leads = leader is not None and leader["token"] in tokens and name in alive
            table.add_row(
                name,
                str(ready["pid"]) if name in alive else "[red]gone[/]",
                "[bold green]● leader[/]" if leads else "",
                str(len(tokens)),
                str(sum(line["token"] in tokens for line in tally.of("ran"))),
                str(sum(line["node"] == node for line in tally.of("ran"))),
            )
        return table


def open_screen() -> Screen:
    """Return the screen that fits standard output."""
    return TableScreen() if sys.stdout.isatty() else PlainScreen()


def _as_line(entry: dict[str, Any]) -> str:
    event = entry["event"]
    if event == "ready":
        return f"{entry['node'].partition('@')[0]} is ready"
    if event == "started":
        return f"{entry['identity'].partition('@')[0]} leads with the fencing token {entry['token']}"
    if event == "stopped":
        return f"{entry['identity'].partition('@')[0]} stopped leading ({entry['reason']})"
    name, worker = entry["task"].rpartition(".")[2], entry["node"].partition("@")[0]
    where = "the leader, " if entry["leading"] else ""
    return f"tick {name} due {entry['due_at'][11:19]} ran on {where}{worker}"
