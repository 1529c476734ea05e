"""The tests. A regular package, so that no package of this name elsewhere can take its place."""

from __future__ import annotations
