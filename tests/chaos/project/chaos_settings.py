"""Django's settings of the chaos project, for stores that are databases."""

from __future__ import annotations

import json
import os

SECRET_KEY = "chaos"
USE_TZ = True
INSTALLED_APPS = ["celery_leader.django"]
DATABASES = {"default": json.loads(os.environ["CHAOS_DATABASE"])}
