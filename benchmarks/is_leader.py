"""What ``is_leader()`` costs in a pool child, against one reading of the clock that it is decided by.

Run it with ``python benchmarks/is_leader.py``; it prints nanoseconds, and the ratio.
"""

from __future__ import annotations

import os
import time
import timeit

from celery_leader import is_leader
from celery_leader.testing import forced_leader

CALLS = 200_000
ROUNDS = 7


def best(statement: object) -> float:
    """Return the nanoseconds of one call of *statement*, in the best of some rounds."""
    return min(timeit.repeat(statement, number=CALLS, repeat=ROUNDS)) / CALLS * 1e9  # type: ignore[arg-type]


def read_clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def main() -> None:
    with forced_leader():
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return
        answer, clock = best(is_leader), best(read_clock)
        print(f"is_leader() in a forked child: {answer:.0f} ns; one reading of the clock: {clock:.0f} ns; "
              f"ratio {answer / clock:.1f}")  # fmt: skip
        os._exit(0)


if __name__ == "__main__":
    main()
