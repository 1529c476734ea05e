"""The Celery app that the chaos tests run as real workers. Everything that happens is one line in one file.

A line is written by one write() to a file opened for appending, so that lines of many processes never mix. Times
are of the boot-time clock, which all processes of the machine share.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import billiard
import celery
from celery import Celery, current_task
from celery.schedules import crontab
from celery.signals import after_task_publish, before_task_publish, worker_ready
from kombu.message import Message

import celery_leader
from celery_leader import leader_only, once_per_tick
from celery_leader.election.clock import boot_time_ns
from celery_leader.leadership.shared_trust import SharedTrust


def log(what: str, **details: Any) -> None:
    """Write one line."""
    line = {"what": what, "at": boot_time_ns() / 1e9, "pid": os.getpid(), **details}
    with open(os.environ["CHAOS_LOG"], "ab", buffering=0) as file:  # Celery's own beat closes all files
        file.write(json.dumps(line).encode() + b"\n")


app = Celery("chaos")
app.conf.update(json.loads(os.environ["CHAOS_CONF"]))
if _method := app.conf.get("chaos_start_method"):
    billiard.set_start_method(_method, force=True)  # what billiard does by itself on macOS
    if celery.VERSION < (5, 7):  # which finds out by itself; before, its users must tell the children
        os.environ["FORKED_BY_MULTIPROCESSING"] = "1"
if _offset := float(os.environ["CHAOS_UTC_OFFSET"]):
    app.conf.timezone = timezone(timedelta(seconds=_offset))  # moves where minutes begin
for _entry in app.conf.beat_schedule.values():
    if _entry["schedule"] == "minutely":  # JSON has no crontabs
        _entry["schedule"] = crontab()
celery_leader.setup(app)


@before_task_publish.connect(sender="chaos_project.tick")  # type: ignore[untyped-decorator]
def _stamp(headers: dict[str, Any], **_: Any) -> None:
    """Let each tick tell when it was sent, and by which term also when the beat does not say."""
    headers["chaos_sent_at"] = time.time()
    if "leader_token" not in headers:
        headers["leader_token"] = str(celery_leader.fencing_token())


@after_task_publish.connect(sender="chaos_project.tick")  # type: ignore[untyped-decorator]
def _sent(headers: dict[str, Any], body: Any, **_: Any) -> None:
    """Note what the broker took."""
    log("sent", entry=body[0][0], id=headers["id"], token=headers["leader_token"])


_trusted: dict[SharedTrust, Any] = {}


def _publish(self: SharedTrust, trust: Any, publish: Any = SharedTrust.publish) -> None:
    publish(self, trust)
    if trust:
        term = _trusted[self] = trust.term
        log("trust", election=term.election, identity=term.identity, token=term.fencing_token, until=trust.until)
    elif self in _trusted:
        term = _trusted.pop(self)
        log("trust-end", election=term.election, token=term.fencing_token)


_looked = threading.local()


def _term(self: SharedTrust, term: Any = SharedTrust.term) -> Any:
    _looked.at = boot_time_ns() / 1e9  # before the clock is asked whether the term lasts
    return term(self)


# The exact moments, as no signal could tell them.
SharedTrust.publish, SharedTrust.term = _publish, _term  # type: ignore[method-assign]


@worker_ready.connect  # type: ignore[untyped-decorator]
def _stop_in_the_midst(sender: Any, **_: Any) -> None:
    """Let a worker be asked to stop right after it wrote a guarded task to a child, before it hears of it again.

    ``chaos_stops`` says when: "written" at once, "begun" when the child runs the task.
    """
    if not (when := app.conf.get("chaos_stops")):
        return
    write = sender.hub.consolidate_callback

    def write_and_stop(writable: list[int]) -> None:
        write(writable)
        if any(job._write_to and not job._accepted for job in sender.pool._pool._cache.values()):
            while when == "begun" and '"guarded-start"' not in Path(os.environ["CHAOS_LOG"]).read_text():
                time.sleep(0.01)
            log("stop")
            os.kill(os.getpid(), signal.SIGTERM)

    sender.hub.consolidate_callback = write_and_stop


def _reject_slowly(self: Message, *args: Any, reject: Any = Message.reject_log_error, **kwargs: Any) -> None:
    """Take the time that a broker far away takes."""
    time.sleep(app.conf.get("chaos_reject_time") or 0)
    reject(self, *args, **kwargs)


Message.reject_log_error = _reject_slowly


@app.task(acks_late=True)
def tick(entry: str) -> None:
    """Note one tick of a periodic entry."""
    request = current_task.request
    log("tick", entry=entry, id=request.id, due=request.headers["leader_due_at"], token=request.headers["leader_token"])


@app.task
@leader_only
def guarded(number: int, seconds: float = 0.0) -> None:
    """Note when a guarded task is let in, begins and ends, and what it believes then."""
    let_in, leads = _looked.at, celery_leader.is_leader()
    log("guarded-start", number=number, let_in=let_in, leads=leads, token=celery_leader.fencing_token())
    time.sleep(seconds)
    log("guarded-end", number=number)


def have_an_effect(seconds: float) -> None:
    """Have it at the end, after some time."""
    log("once-start", id=current_task.request.id)
    time.sleep(seconds)
    log("effect", id=current_task.request.id)


once = app.task(name="chaos_project.once", acks_late=True)(once_per_tick(have_an_effect))
# A message that was acknowledged can't go back.
once_early = app.task(name="chaos_project.once_early")(once_per_tick(have_an_effect))
once_briefly = app.task(name="chaos_project.once_briefly", acks_late=True)(once_per_tick(timeout=4)(have_an_effect))


def note_form(name: str) -> None:
    """Note that a task ran, and end when the test has seen enough of that."""
    log("form", name=name, leads=celery_leader.is_leader())
    while Path(os.environ["CHAOS_LOG"]).with_name("hold").exists():
        time.sleep(0.05)


if app.conf.get("chaos_forms"):
    from tests.tasks.project.forms import declare

    declare(app, note_form)
    app.autodiscover_tasks(["forms_found"])


@app.task
def ask(number: int) -> None:
    """Note what a pool child answers."""
    log(
        "answer", number=number, leads=celery_leader.is_leader(), leader=celery_leader.get_leader(), parent=os.getppid()
    )


@app.task
def keep_asking(seconds: float) -> None:
    """Note at each change what a pool child answers, for some time."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        if (leads := celery_leader.is_leader()) != last:
            log("belief", leads=leads, parent=os.getppid())
            last = leads
        time.sleep(0.002)
