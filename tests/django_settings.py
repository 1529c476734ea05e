"""Django's settings for the tests.

The only alias from the start is ``default``, an SQLite file that nothing creates unless it is used. Tests that need
another database add its alias while they run: see ``tests/databases.py``.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

import pymysql

# Django asks for mysqlclient, which is built from C; PyMySQL stands in for it.
pymysql.install_as_MySQLdb()

_DEFAULT = Path(tempfile.gettempdir()) / f"celery-leader-tests-{os.getpid()}.sqlite3"
atexit.register(_DEFAULT.unlink, missing_ok=True)

SECRET_KEY = "tests"
DEBUG = False
USE_TZ = True
TIME_ZONE = "Asia/Kolkata"  # not UTC, and not a whole hour from it: what forgets to convert is seen
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.django_urls"
STATIC_URL = "/static/"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(_DEFAULT),
    },
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "celery_leader.django",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
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

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
