"""What runs inside ``celery worker``."""

from __future__ import annotations
