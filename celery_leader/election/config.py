"""How one candidate takes part in one election."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass

from celery_leader.election.limits import LONGEST, LONGEST_NAME, is_duration, is_name, shown_value
from celery_leader.exceptions import ConfigurationError


def new_identity(nodename: str | None = None) -> str:
    """Return a name for this candidate that no other process ever has: ``nodename/pid/nonce``.

    Args:
        nodename: Celery's name of the worker (``celery@web-1``); the host's name when omitted.
            A bare host name is never enough: two workers of one host would renew each other's lease.
    """
    name = nodename or socket.gethostname()
    readable = name.encode(errors="backslashreplace").decode()  # a command line may hold bytes that are not UTF-8
    return f"{readable}/{os.getpid()}/{secrets.token_hex(4)}"


@dataclass(frozen=True)
class ElectionConfig:
    """One candidate's part in one election. Durations are in seconds.

    The names, the defaults and the rules between them are those of Kubernetes' client-go
    ``tools/leaderelection``.

    Attributes:
        name: The election.
        identity: The name of this candidate, unlike all others; see :func:`new_identity`.
        lease_duration: How long followers wait after the last change of the record before they take it over.
        renew_deadline: How long after the start of its last successful attempt a leader trusts itself.
        retry_period: How long to wait between two attempts.
        jitter_factor: A follower waits ``retry_period`` × a random number from 1 to 1 + this.
        release_on_cancel: Whether a stopped candidate releases its lease at once.
        deployment: The deployment of the candidate, in words for an operator; may be empty. It decides nothing.
            Candidates log an error when the record names another deployment, because two share one record then.

    Raises:
        ConfigurationError: The values break one or more rules; the message names each with the values.
    """

    name: str
    identity: str
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    jitter_factor: float = 1.2
    release_on_cancel: bool = True
    deployment: str = ""

    def __post_init__(self) -> None:
        """Check every rule, and report all broken rules at once."""
        if problems := self._problems():
            raise ConfigurationError(f"Election {self.name!r} can't be held: " + "; ".join(problems) + ".")

    def _problems(self) -> list[str]:
        problems = [
            self._problem(field, f"text of 1 to {LONGEST_NAME} characters of UTF-8")
            for field in ("name", "identity")
            if not (getattr(self, field) and is_name(getattr(self, field)))
        ]
        if not is_name(self.deployment):
            problems.append(self._problem("deployment", f"text of {LONGEST_NAME} characters of UTF-8 at most"))
        wrong = [field for field in _DURATIONS if not is_duration(getattr(self, field))]
        problems += [self._problem(field, f"a positive number, {LONGEST:.0f} (ten years) at most") for field in wrong]
        return problems if wrong else problems + self._impossible_timings()

    def _problem(self, field: str, expected: str) -> str:
        return f"{field} must be {expected}, got {shown_value(getattr(self, field))}"

    def _impossible_timings(self) -> list[str]:
        problems = []
        if self.lease_duration <= self.renew_deadline:
            problems.append(
                f"lease_duration must be longer than renew_deadline, got {self.lease_duration:g} s "
                f"and {self.renew_deadline:g} s"
            )
        longest_retry = self.jitter_factor * self.retry_period
        if self.renew_deadline <= longest_retry:
            problems.append(
                f"renew_deadline must be longer than jitter_factor × retry_period, got "
                f"{self.renew_deadline:g} s and {self.jitter_factor:g} × {self.retry_period:g} s"
            )
        return problems


_DURATIONS = ("lease_duration", "renew_deadline", "retry_period", "jitter_factor")
