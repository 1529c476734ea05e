"""The Celery app. Two lines make its workers elect a leader: the import and the call of setup()."""

from __future__ import annotations

import os

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

import celery_leader

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
# Only for a broker in a folder: kombu's own transport loses messages when a worker is killed. Projects use Redis or
# RabbitMQ, and don't need this line.
TRANSPORT_ALIASES["filesystem"] = "proj.broker:Transport"

app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["shop"])
celery_leader.setup(app)
