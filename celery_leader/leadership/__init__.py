"""What this process believes about its elections."""

from __future__ import annotations
