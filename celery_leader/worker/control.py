"""Remote control: the workers' views of their elections."""

from __future__ import annotations

from typing import Any

from celery.app.control import Inspect
from celery.worker.control import inspect_command


@inspect_command()
def leader_status(state: Any) -> dict[str, Any]:
    """Show each worker's view of its elections: whether it leads, who leads, and the fencing token."""
    # Runs in the worker's main loop: answered from memory, without I/O.
    leadership = getattr(state.consumer.controller, "leader", None)
    return {"elections": leadership.status() if leadership else {}}


def _ask(inspect: Inspect) -> dict[str, dict[str, Any]] | None:
    """Return the workers' views of their elections, by worker; None when none answers in time."""
    answers: dict[str, dict[str, Any]] | None = inspect._request("leader_status")  # noqa: SLF001  # as its own methods do
    return answers


# So that `app.control.inspect().leader_status()` works as its other methods do: Celery makes none of a command.
Inspect.leader_status = _ask
