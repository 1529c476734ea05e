"""A shop with something to do all the time."""

from __future__ import annotations
