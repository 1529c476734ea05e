"""Where mutants are kept, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Mutant:
    """A fault: what puts it in place, and the tests that notice what no simulated world can; "" where worlds do."""

    apply: Callable[[], None]
    killer: str

    @property
    def story(self) -> str:
        """What it does, in one sentence."""
        return (self.apply.__doc__ or "").partition("\n")[0]


MUTANTS: dict[str, Mutant] = {}

#: The faults of the research's list that our design leaves no place for, and why.
NO_PLACE = {
    "m10": (
        "Tells of a change before it is there. The store tells, in the step that changes: Redis in the script that "
        "writes, PostgreSQL at the commit of the transaction. A hint that came early would only cost a look."
    ),
}


def mutant(killer: str = "") -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a fault by its function's name."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[apply.__name__] = Mutant(apply, killer)
        return apply

    return register
