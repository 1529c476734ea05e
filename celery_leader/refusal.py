"""The refusal of a worker or a beat to start: one sentence, without a traceback."""

from __future__ import annotations

import logging
from typing import Any

import click

from celery_leader.exceptions import ConfigurationError

logger = logging.getLogger(__name__)


class StartRefused(ConfigurationError, click.ClickException):
    """A worker or a beat can't start as it is configured. The command line prints the sentence and exits with 1."""

    def __init__(self, message: str) -> None:
        """Carry *message* for both: the exception and the command line."""
        click.ClickException.__init__(self, message)


def say_in_file(worker: Any, refusal: str) -> None:
    """Log why *worker* does not start, if it logs to a file: a detached worker has no terminal to say it on."""
    if worker.logfile:
        logger.critical("%s", refusal)
