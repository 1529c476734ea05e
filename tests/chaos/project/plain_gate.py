"""What others do: Celery's scheduler behind a gate, and nothing outlives its process. The chaos tests must notice."""

from __future__ import annotations

from typing import Any

from celery.beat import Scheduler

import celery_leader


class PlainGate(Scheduler):  # type: ignore[misc]  # Celery has no types
    """Ticks only in the worker that leads, and knows only what it sent itself."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due if this worker leads."""
        return float(super().tick(*args, **kwargs)) if celery_leader.is_leader() else 0.2
