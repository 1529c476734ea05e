"""What this process believes of its elections."""

from __future__ import annotations
