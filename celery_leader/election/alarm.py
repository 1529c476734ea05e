"""A wrong state that lasts is logged again and again: silence would pass for health."""

from __future__ import annotations

#: Seconds between two ERROR lines about one state.
REPEATED_EACH = 60.0


class Alarm:
    """One wrong state of this process: since when it lasts, and when its next line is due.

    The alarm only decides when. The caller logs, so each line keeps its own words and its own logger.
    """

    def __init__(self, *, after: float = 0.0) -> None:
        """Begin with nothing wrong.

        Args:
            after: How long (seconds) the state must last before it is worth a line.
        """
        self._after = after
        self._since: float | None = None
        self._next = 0.0
        self._was_due = False

    @property
    def is_on(self) -> bool:
        """Whether the state lasts."""
        return self._since is not None

    def lasted(self, now: float) -> float:
        """Return how long (seconds) the state has lasted at *now*; 0 when all is well."""
        return 0.0 if self._since is None else now - self._since

    def due(self, now: float) -> float | None:
        """Note that the state lasts at *now* (monotonic seconds).

        Returns:
            How long it has lasted (seconds) when a line is due, else None.
        """
        if self._since is None:
            self._since, self._next = now, now + self._after
        if now < self._next:
            return None
        self._next, self._was_due = now + REPEATED_EACH, True
        return now - self._since

    def over(self, now: float) -> float | None:
        """Note that all is well at *now* (monotonic seconds).

        Returns:
            How long the state had lasted (seconds) when a line about it was due, else None.
        """
        lasted, was_due = self.lasted(now), self._was_due
        self._since, self._was_due = None, False
        return lasted if was_due else None


def in_words(seconds: float) -> str:
    """Return a duration in the largest unit that it holds twice: ``1.5 s``, ``95 s``, ``3 h``, ``2 d``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if abs(seconds) >= 10 else f"{seconds:.1f} s"
