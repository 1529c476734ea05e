"""The Django app of celery-leader: elections in a database, the admin, system checks.

Add ``"celery_leader.django"`` to ``INSTALLED_APPS`` and run ``manage.py migrate celery_leader``. This package is the
only part of celery-leader that imports Django.
"""

from __future__ import annotations
