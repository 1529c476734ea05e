"""Messages of tasks, and what a pool child makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery, Task
from celery.app.trace import build_tracer
from kombu import Queue


def deliver(
    task: Task,
    *args: Any,
    id: str = "an-id",  # noqa: A002
    queue: str = "celery",
    headers: Mapping[str, Any] | None = None,
    embed: Mapping[str, Any] | None = None,
    **request: Any,
) -> Any:
    """Run *task* as a pool child does that has its message; return what it traced.

    A worker makes the request of a task of the message's headers, what it knows itself, and what the third part of the
    body says, in this order: the last one counts.
    """
    known = {
        "properties": {}, "args": args, "kwargs": {}, "is_eager": False,
        "delivery_info": {"exchange": queue, "routing_key": queue},
    }  # fmt: skip
    request = {"id": id, "task": task.name, **(headers or {}), **known, **request, **(embed or {})}
    return build_tracer(task.name, task, app=task.app)(id, args, {}, request)


def taken(app: Celery, queue: Queue | str = "celery") -> list[Any]:
    """Take all messages from *queue*."""
    if isinstance(queue, str):
        queue = app.amqp.Queues(None, create_missing=True)[queue]
    messages = []
    with app.connection() as connection:
        channel = connection.default_channel
        queue(channel).declare()
        while message := channel.basic_get(queue.name, no_ack=True):
            messages.append(message)
    return messages
