"""How a guard ends a delivery that may not run its task."""

from __future__ import annotations

from celery.exceptions import Ignore, Reject


class GoBack(Reject, Ignore):
    """Returns a message to its queue. An Ignore as well, so that ``autoretry_for`` lets it pass."""


class TurnedAway(Ignore):
    """Ends a delivery that did not run its task."""
