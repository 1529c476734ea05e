"""Django's settings; those of celery-leader stand at the end.

The project needs no server: the database is an SQLite file and the broker is a folder. Environment variables name
others: see README.md.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery.schedules import crontab

from proj.databases import database

BASE_DIR = Path(__file__).resolve().parent.parent
#: The folder of the database, the broker's messages and the diary.
DATA_DIR = Path(os.environ.get("EXAMPLE_DATA") or BASE_DIR / "var")

DEBUG = True
SECRET_KEY = "for the example only"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "proj.urls"
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "celery_leader.django",  # keeps the election in the database, and shows it in the admin
    "shop",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": database(os.environ.get("DATABASE_URL", ""), DATA_DIR)}

# -- Celery -----------------------------------------------------------------------------------------------------------

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL") or "filesystem://"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_CONCURRENCY = 2
if CELERY_BROKER_URL == "filesystem://":
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(DATA_DIR / "messages"),
        "data_folder_out": str(DATA_DIR / "messages"),
        "processed_folder": str(DATA_DIR / "taken"),
        "control_folder": str(DATA_DIR / "bindings"),
        "polling_interval": 0.1,
    }
    for _folder in ("messages", "taken", "bindings"):
        (DATA_DIR / _folder).mkdir(parents=True, exist_ok=True)

#: No `celery beat` runs anywhere: every worker runs a beat, and only the leader's sends these entries.
CELERY_BEAT_SCHEDULE = {
    "take-orders": {"task": "shop.tasks.take_orders", "schedule": 1.0},
    "check-stock": {"task": "shop.tasks.check_stock", "schedule": 5.0},
    "pay-suppliers": {"task": "shop.tasks.pay_suppliers", "schedule": 7.0},  # runs on the leader only
    "close-the-minute": {"task": "shop.tasks.close_the_minute", "schedule": crontab()},
}

# -- celery-leader ----------------------------------------------------------------------------------------------------

CELERY_LEADER_BEAT = True

# Much shorter than the defaults (15, 10 and 2 seconds), so that you see a takeover soon. When a leader is killed,
# another worker leads after the lease has run out. Short leases need a fast store: a leader that can't renew for
# 3 seconds stops leading.
CELERY_LEADER_LEASE_DURATION = 4.0
CELERY_LEADER_RENEW_DEADLINE = 3.0
CELERY_LEADER_RETRY_PERIOD = 0.5

# The default store is the database. LEADER_BACKEND is the URL of another store, for example redis://localhost:6379/1.
if os.environ.get("LEADER_BACKEND"):
    CELERY_LEADER_BACKEND = os.environ["LEADER_BACKEND"]
