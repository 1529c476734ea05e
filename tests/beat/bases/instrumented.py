"""A leading beat in a process that another program instruments.

``python -m tests.beat.bases.instrumented sentry before``: the program patches Celery *before* or *after* ours is
imported. Prints as JSON what the program saw, what was sent, and in how many calls of the ledger.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

ENTRIES = 40
ROUNDS = 3


def sentry() -> Callable[[], dict[str, Any]]:
    """Sentry's cron monitors, and a trace for each message."""
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.transport import Transport

    check_ins: list[dict[str, Any]] = []

    class Collected(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            check_ins.extend(item.payload.json for item in envelope.items if item.type == "check_in")

    sentry_sdk.init(
        dsn="http://public@127.0.0.1:9/1",
        transport=Collected,
        integrations=[CeleryIntegration(monitor_beat_tasks=True)],
        default_integrations=False,
    )
    return lambda: {
        "ticks": Counter(each["monitor_slug"] for each in check_ins),
        "kinds": Counter(each["status"] for each in check_ins),
        "ids": sorted(each["check_in_id"] for each in check_ins),
    }


def datadog() -> Callable[[], dict[str, Any]]:
    """Datadog's spans of ``tick`` and ``apply_entry``."""
    import ddtrace
    from ddtrace.contrib.internal.celery.patch import patch
    from ddtrace.trace import TraceFilter, tracer

    spans: list[Any] = []

    class Collected(TraceFilter):  # type: ignore[misc]  # untyped
        def process_trace(self, trace: list[Any]) -> None:
            spans.extend(trace)

    assert ddtrace.__version__
    tracer.configure(trace_processors=[Collected()])
    patch()

    def seen() -> dict[str, Any]:
        tracer.flush()
        applied = [span for span in spans if span.name == "celery.beat.apply_entry"]
        ticks = {span.span_id for span in spans if span.name == "celery.beat.tick"}
        return {
            "ticks": Counter(span.resource for span in applied),
            "each in a tick of its own": len({span.parent_id for span in applied} & ticks) == len(applied),
        }

    return seen


def opentelemetry() -> Callable[[], dict[str, Any]]:
    """OpenTelemetry's span of each message, in a trace of its own."""
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    CeleryInstrumentor().instrument(tracer_provider=provider)

    def seen() -> dict[str, Any]:
        spans = exporter.get_finished_spans()
        return {
            "spans": Counter(span.name for span in spans),
            "traces": len({span.context.trace_id for span in spans}),
            "ids": sorted(span.attributes["messaging.message.id"] for span in spans),
        }

    return seen


def main(program: str, when: str, redbeat_url: str = "") -> None:
    """Run a beat under *program*, on Celery's scheduler or on RedBeat in a Redis, and print what became of it."""
    instrument = {"sentry": sentry, "datadog": datadog, "opentelemetry": opentelemetry}[program]
    if when == "before":
        seen = instrument()
    from celery_leader.beat.scheduler import leader_scheduler
    from tests.beat.machines import Machines

    base = "redbeat.RedBeatScheduler" if redbeat_url else "celery.beat:Scheduler"
    leader_scheduler(base)
    if when == "after":
        seen = instrument()
    machines = Machines(store="memory://instrumented", conf={"redbeat_redis_url": redbeat_url, "result_expires": None})
    machines.schedule = {f"entry {number}": {"task": "t.known", "schedule": 60.0} for number in range(ENTRIES)}
    leader = machines.add(base)
    leader.scheduler.app.set_current()  # whose clock schedules from Redis look at

    @leader.scheduler.app.task(name="t.known")
    def known() -> None:
        """Be known to this process, as a worker's tasks are."""

    leader.lead()
    leader.tick_until_idle()
    assert machines.sent() == []
    with mock.patch.object(machines.ledger, "claim", side_effect=machines.ledger.claim) as claim:
        for _ in range(ROUNDS):
            machines.wall.advance(60)
            leader.lead()
            leader.tick_until_idle()
    sent = machines.sent()
    found = {"sent": len(sent), "ids of messages": sorted(each["id"] for each in sent), "claims": claim.call_count}
    found["headers"] = [{name: each.get(name) for name in ("sentry-trace", "traceparent")} for each in sent]
    found["check-ins"] = sorted(each["sentry-monitor-check-in-id"] for each in sent if "sentry-monitor-slug" in each)
    print(json.dumps(found | seen()))  # noqa: T201


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(*sys.argv[1:])
