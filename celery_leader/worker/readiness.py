"""Whether this worker is fit to lead: it has a broker, its main loop turns, and it is not shutting down."""

from __future__ import annotations

import time

from celery_leader.election import Candidacy

#: A main loop that has not turned for this long (seconds), or for a lease if that is longer, is frozen.
MAX_LOOP_AGE = 30.0


class Readiness:
    """The state of the worker, as its steps report it, and its candidacy.

    Written by the main loop and by signal handlers, which only assign; read by the electors' threads.
    """

    def __init__(self, *, required: bool, watches_loop: bool, lease_duration: float) -> None:
        """Start as a worker that is not ready.

        Args:
            required: Whether to wait for a working consumer before contending.
            watches_loop: Whether a main loop that stands still disqualifies. Not for pools that run tasks in it.
            lease_duration: The longest lease of this worker's elections, in seconds.
        """
        self.shutting_down = False
        self._required = required
        self._watches_loop = watches_loop
        self._max_age = max(lease_duration, MAX_LOOP_AGE)
        self._last_turn: float | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the consumer was ready once."""
        return self._last_turn is not None

    def loop_turned(self) -> None:
        """Note that the main loop, with its connection to the broker, is alive at this moment."""
        self._last_turn = time.monotonic()

    def candidacy(self) -> Candidacy:
        """Return how far this worker may go at this moment."""
        if self.shutting_down:
            return Candidacy.HOLD
        if not self._required:
            return Candidacy.CONTEND
        if self._last_turn is None:
            return Candidacy.OBSERVE
        frozen = self._watches_loop and time.monotonic() - self._last_turn > self._max_age
        return Candidacy.OBSERVE if frozen else Candidacy.CONTEND
