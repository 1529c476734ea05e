"""Remote control: what workers say of their elections."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command


@inspect_command()
def leader_status(state: Any) -> dict[str, Any]:
    """Show what each worker believes of its elections: whether it leads, who does, and the fencing token."""
    # Runs in the worker's main loop: answered from memory, without I/O.
    leadership = getattr(state.consumer.controller, "leader", None)
    return {"elections": leadership.status() if leadership else {}}
