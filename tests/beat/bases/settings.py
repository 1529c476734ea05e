"""Django's settings for the tests of other people's schedulers: the suite's, and django-celery-beat's tables."""

from __future__ import annotations

from tests import django_settings
from tests.django_settings import *  # noqa: F403

INSTALLED_APPS = [*django_settings.INSTALLED_APPS, "django_celery_beat"]
