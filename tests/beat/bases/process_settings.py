"""Django's settings of the chaos project's processes when their schedule is django-celery-beat's."""

from __future__ import annotations

import chaos_settings  # the project is on the path of its processes
from chaos_settings import *  # noqa: F403

INSTALLED_APPS = [*chaos_settings.INSTALLED_APPS, "django_celery_beat"]
