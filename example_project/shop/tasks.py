"""The shop's tasks. CELERY_BEAT_SCHEDULE says when they run."""

from __future__ import annotations

from celery import shared_task
from celery.utils.log import get_task_logger

from celery_leader import fencing_token, leader_only

logger = get_task_logger(__name__)


@shared_task
def take_orders() -> None:
    """Runs on any worker; only the leader's beat sends it."""
    logger.info("Orders taken")


@shared_task
def check_stock() -> None:
    logger.info("Stock checked")


@shared_task
def close_the_minute() -> None:
    logger.info("Minute closed")


@shared_task
@leader_only
def pay_suppliers() -> None:
    """Runs only on the leader, whoever sends it: never two at once.

    A bank could refuse a payment with a token below the highest one it has seen. A deposed leader that does not know
    of its loss yet can then do no harm.
    """
    logger.info("Suppliers paid, with the token %s", fencing_token())
