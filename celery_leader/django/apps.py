"""The configuration of the Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register
from django.utils.translation import gettext_lazy as _


class CeleryLeaderConfig(AppConfig):
    """The app ``celery_leader.django``, labelled ``celery_leader``."""

    name = "celery_leader.django"
    label = "celery_leader"
    verbose_name = _("Leader election")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from celery_leader.django.checks import check_backend, check_beat_scheduler, check_settings

        register(check_backend)
        register(check_settings)
        register(check_beat_scheduler)
