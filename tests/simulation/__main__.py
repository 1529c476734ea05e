# ruff: noqa: T201  # it is a command
"""``python -m tests.simulation FIRST [COUNT]``: run seeds; one that fails prints its story and can be run again."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter

from tests.simulation.chaos import simulate
from tests.simulation.invariants import Violation


def main() -> None:
    """Run the seeds of the command line."""
    logging.disable(logging.CRITICAL)
    first = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    seen: Counter[str] = Counter()
    begun = time.monotonic()
    failed = 0
    for seed in range(first, first + count):
        try:
            seen += simulate(seed)
        except Violation as violation:
            failed += 1
            print(violation if failed < 4 else str(violation).partition("\n")[0])
    print(f"{count} seeds in {time.monotonic() - begun:.1f} s, {failed} failed")
    for what, times in sorted(seen.items()):
        print(f"{times:8} × {what}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
