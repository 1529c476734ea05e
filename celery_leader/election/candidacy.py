"""How far a candidate may go."""

from __future__ import annotations

from enum import Enum


class Candidacy(Enum):
    """How far a candidate may go at this moment."""

    CONTEND = "contend"  #: acquire and renew
    HOLD = "hold"  #: renew what it has, acquire nothing new
    OBSERVE = "observe"  #: write nothing
