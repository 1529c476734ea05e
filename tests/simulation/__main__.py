# ruff: noqa: T201  # it is a command
"""``python -m tests.simulation FIRST [COUNT]``: run seeds on all cores; one that fails tells its story.

A seed by itself is told from its beginning, whether it fails or not. Status 1 when a rule was broken, or when a batch
of a thousand and more never saw something that it must see to prove anything.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections import Counter

from tests.simulation.invariants import Violation
from tests.simulation.seeds import finish, missing, populate, simulate
from tests.simulation.world import World

#: Seeds that one process runs in one go.
CHUNK = 50
#: After how many seeds to say how far it is.
PROGRESS = 5000
#: Stories that are told of a run with many violations.
STORIES = 3
#: After so many violations the rest has nothing new to tell.
TOO_MANY = 50
#: From so many seeds on a batch must have seen everything.
ENOUGH = 500


def main() -> None:
    """Run the seeds of the command line."""
    logging.disable(logging.CRITICAL)
    first = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    sys.exit(tell(first) if count == 1 else run(first, count))


def tell(seed: int) -> bool:
    """Run one seed and print its whole story; return whether a rule was broken."""
    world = World(seed)
    broken = ""
    try:
        finish(populate(world))
    except Violation as violation:
        broken = str(violation).partition("\n")[0]
    finally:
        story = world.story(len(world.trace))
        world.close()
    print(story, *(f"{times:8} × {what}" for what, times in sorted(world.witness.items())), sep="\n")
    print(broken or "no rule was broken")
    return bool(broken)


def run(first: int, count: int) -> bool:
    """Run *count* seeds and print what was seen; return whether anything is wrong."""
    chunks = [range(begin, min(begin + CHUNK, first + count)) for begin in range(first, first + count, CHUNK)]
    seen: Counter[str] = Counter()
    violations: list[str] = []
    begun = time.monotonic()
    with multiprocessing.Pool(min(len(chunks), os.cpu_count() or 1)) as pool:
        for done, (witness, broken) in enumerate(pool.imap_unordered(run_chunk, chunks), start=1):
            seen += witness
            if done * CHUNK % PROGRESS == 0:
                print(f"{done * CHUNK} seeds after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            for violation in broken:
                violations.append(violation)
                print(violation if len(violations) <= STORIES else violation.partition("\n")[0], flush=True)
            if len(violations) > TOO_MANY:
                break
    took = time.monotonic() - begun
    print(f"{count} seeds in {took:.1f} s ({count / took:.0f}/s): {len(violations)} violations")
    for what, times in sorted(seen.items()):
        print(f"{times:8} × {what}")
    unseen = missing(seen) if count >= ENOUGH else []
    for what in unseen:
        print(f"   never × {what}")
    return bool(violations or unseen)


def run_chunk(seeds: range) -> tuple[Counter[str], list[str]]:
    """Run *seeds*; return what was seen and the violations."""
    logging.disable(logging.CRITICAL)
    seen: Counter[str] = Counter()
    violations = []
    for seed in seeds:
        try:
            seen += simulate(seed)
        except Violation as violation:
            violations.append(str(violation))
    return seen, violations


if __name__ == "__main__":
    main()
