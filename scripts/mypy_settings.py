"""Settings for mypy's Django plugin, which starts Django to learn the models' fields. Nothing else reads them."""

from __future__ import annotations

SECRET_KEY = "not a secret: nothing is served"  # noqa: S105
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "celery_leader.django",
]
USE_TZ = True
