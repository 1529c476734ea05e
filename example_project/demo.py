"""The demo, which `make demo` runs: three workers elect a leader, whose beat sends ticks. It kills and stops leaders.

The last line is a summary; the exit status is 0 only if no tick ran twice and none was lost.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from fleet import HERE, Fleet
from screen import Screen, open_screen
from tally import Tally

DATA = Path(os.environ.get("EXAMPLE_DATA") or HERE / "var")
WORKERS = ("w1", "w2", "w3")
#: How long (seconds) each leader sends before it is killed or stopped.
REIGN = 14.0
#: How long (seconds) the demo waits for one event before it gives up. The whole demo stays below 90 s.
PATIENCE = 20.0


class GaveUp(Exception):
    """An expected event did not happen in time."""


class Demo:
    """The demo's story, shown on a screen."""

    def __init__(self, fleet: Fleet, screen: Screen) -> None:
        self._fleet = fleet
        self._screen = screen
        self._leaders: list[str] = []
        self._longest_vacancy = 0.0

    def run(self) -> int:
        """Run the demo; return the exit status."""
        self._fleet.manage("migrate", "-v0")
        self._fleet.start(*WORKERS)
        self._screen.say("three workers start; each runs a beat, and only the leader's sends")
        leader = self._await_leader(time.monotonic())
        self._watch(REIGN)

        self._screen.say(f"kill -9 {leader}")
        killed_at = self._fleet.kill(leader)
        leader = self._await_leader(killed_at)
        takeover_kill = self._took_over(killed_at)
        self._watch(REIGN)

        self._screen.say(f"SIGTERM to {leader}, as in a deployment")
        stopped_at = self._fleet.terminate(leader)
        leader = self._await_leader(stopped_at)
        takeover_term = self._took_over(stopped_at)
        self._watch(REIGN)

        self._screen.say(f"the show is over: {leader} stops")
        self._fleet.terminate(leader)
        self._until_all_stopped()
        return self._sum_up(takeover_kill, takeover_term)

    def _tally(self) -> Tally:
        return Tally.read(self._fleet.data / "diary.jsonl")

    def _look(self) -> Tally:
        tally = self._tally()
        self._screen.update(tally, self._fleet.alive())
        return tally

    def _await_leader(self, since: float) -> str:
        """Wait until a term starts after *since*; return the worker that leads."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if started := self._look().started_after(since):
                self._leaders.append(started["identity"])
                return str(started["identity"]).partition("@")[0]
            if not self._fleet.alive():
                raise GaveUp("no worker is alive")
            time.sleep(0.1)
        raise GaveUp(f"nobody led after {PATIENCE:g} s")

    def _took_over(self, since: float) -> float:
        started = self._tally().started_after(since)
        assert started
        took = float(started["at"]) - since
        self._longest_vacancy = max(self._longest_vacancy, took)
        self._screen.say(f"took over after {took:.1f} s")
        return took

    def _watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look()
            time.sleep(0.1)

    def _until_all_stopped(self) -> None:
        end = time.monotonic() + PATIENCE
        while self._fleet.alive() and time.monotonic() < end:
            self._look()
            time.sleep(0.1)
        self._fleet.stop(*self._fleet.alive())
        self._look()

    def _sum_up(self, takeover_kill: float, takeover_term: float) -> int:
        tally = self._tally()
        twice = tally.twice()
        claimed, periods = _claimed_ticks()
        lost = tally.lost(claimed, _in_broker(self._fleet.data), periods, self._longest_vacancy)
        for wrong in [*(f"twice: {tick}" for tick in twice), *(f"lost: {ticks}" for ticks in lost)]:
            self._screen.say(wrong)
        self._screen.say("`make admin` shows the election in Django's admin")
        self._screen.close()
        print(
            f"demo: leaders={len(set(self._leaders))} ticks={len(tally.ticks())} twice={len(twice)} lost={len(lost)} "
            f"takeover_kill={takeover_kill:.1f}s takeover_term={takeover_term:.1f}s",
            flush=True,
        )
        return 1 if twice or lost else 0


def _claimed_ticks() -> tuple[dict[str, int], dict[str, float]]:
    """Return the ledger's count of ticks by task, and the seconds between two ticks of each task with an interval."""
    import django

    django.setup()
    from django.conf import settings

    from celery_leader.django.models import PeriodicRun

    entries = settings.CELERY_BEAT_SCHEDULE
    counts = PeriodicRun.objects.values_list("entry", "run_count")
    claimed = {entries[entry]["task"]: count for entry, count in counts}
    periods = {entry["task"]: entry["schedule"] for entry in entries.values() if isinstance(entry["schedule"], float)}
    return claimed, periods


def _in_broker(data: Path) -> dict[str, int]:
    """Return how many messages of each task no worker has run yet, by task."""
    files = [path for folder in ("messages", "taken") for path in (data / folder).rglob("*.msg")]
    return Counter(json.loads(path.read_bytes())["headers"].get("task", "") for path in files)


def main() -> int:
    os.environ["EXAMPLE_DATA"] = str(DATA)
    os.environ["DJANGO_SETTINGS_MODULE"] = "proj.settings"
    for name in ("DATABASE_URL", "CELERY_BROKER_URL", "LEADER_BACKEND"):
        os.environ.pop(name, None)  # the demo needs no server, and touches none
    screen = open_screen()
    try:
        with Fleet(DATA) as fleet:
            try:
                return Demo(fleet, screen).run()
            except GaveUp as error:
                screen.close()
                for name in fleet.processes:
                    print(f"\n--- the end of {name}.log\n{fleet.last_words(name)}")
                print(f"\ndemo: gave up: {error}")
                return 1
    except KeyboardInterrupt:
        screen.close()
        print("demo: interrupted; the workers were stopped", flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
