"""``celery -A proj leader …``."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.signals import beat_init, worker_init

from celery_leader.election.alarm import in_words
from celery_leader.exceptions import ConfigurationError, LockUnavailable, RecordNotFound

#: Celery's status of a command that got no answer, and that of one whose answer is no.
EX_UNAVAILABLE = 69
EX_NO_LEADER = 1

_COLUMNS = ("NAME", "HOLDER", "STATE", "TOKEN", "RENEWED", "TRANSITIONS")


# The celery command imports this module before it starts a worker or a beat, also for an app that was never set up.
@worker_init.connect(dispatch_uid="celery_leader")
def _on_worker_init(**kwargs: Any) -> None:
    from celery_leader.app import refuse_without_setup

    refuse_without_setup(**kwargs)


@beat_init.connect(dispatch_uid="celery_leader")
def _on_beat_init(**kwargs: Any) -> None:
    from celery_leader.beat.second_sender import refuse_second_sender

    refuse_second_sender(**kwargs)


@click.group(name="leader", help="Show who leads.")
@click.pass_context
@handle_preload_options
def leader(ctx: click.Context) -> None:
    """Carry the commands below."""


@leader.command(cls=CeleryCommand)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--check", is_flag=True, help="Exit with status 1 unless every election has a leader.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, check: bool) -> None:
    """Show the record of each election, as the store holds it.

    The exit status is 0; 1 for a wrong setting, or with --check when an election has no leader; 69 when the store does
    not answer.
    """
    app = ctx.obj.app
    _warn_without_setup(app)
    try:
        report = read_status(app)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    except LockUnavailable as error:
        if as_json:
            click.echo(json.dumps({"elections": [], "error": str(error)}))
        click.echo(f"Error: {error}", err=True)
        ctx.exit(EX_UNAVAILABLE)
    click.echo(json.dumps(report) if as_json else render_status(report))
    if check and any(election["state"] != "leading" for election in report["elections"]):
        ctx.exit(EX_NO_LEADER)


def _warn_without_setup(app: Any) -> None:
    from celery_leader.settings import apps_set_up

    if app not in apps_set_up:
        click.echo("Warning: celery_leader.setup(app) was not called: no worker of this app takes part.", err=True)


def read_status(app: Any) -> dict[str, Any]:
    """Return what the store holds of each election of *app*, as plain JSON values.

    Raises:
        ConfigurationError: A setting is wrong, or the store was not prepared.
        LockUnavailable: The store does not answer, or holds something damaged.
    """
    from celery_leader.leadership.campaign import backend_of  # the celery command imports this module each time
    from celery_leader.settings import LeaderSettings

    settings = LeaderSettings.from_app(app)
    if settings.backend.startswith("memory:"):
        raise ConfigurationError(
            f"leader_backend is {settings.backend}: each worker keeps elections in its own memory, and no other "
            "process sees them. Ask the workers: celery -A … inspect leader_status"
        )
    backend = backend_of(settings, app.main)
    try:
        backend.check()  # names the cure of a database that was not migrated
        elections = [_read_election(backend, name) for name in settings.all_elections]
    finally:
        backend.close()
    shown = [election for election in elections if election["fencing_token"] or election["name"] in settings.elections]
    return {"backend": backend.describe(), "elections": shown}


def _read_election(backend: Any, name: str) -> dict[str, Any]:
    lock = backend.lock(name)
    try:
        record = lock.get().record
    except RecordNotFound:
        record = None
    finally:
        lock.close()
    age = _age(record.renew_time) if record else None
    return {
        "name": name,
        "state": _state(record, age),
        "holder": record.holder_identity if record else "",
        "fencing_token": record.fencing_token if record else 0,
        "acquire_time": _text(record.acquire_time) if record else None,
        "renew_time": _text(record.renew_time) if record else None,
        "lease_duration": record.lease_duration if record else None,
        "leader_transitions": record.leader_transitions if record else 0,
    }


def _state(record: Any, age: float | None) -> str:
    """Return a word for people: the holder's wall clock and this one's may differ, and candidates don't ask them."""
    if record is None or not record.holder_identity:
        return "vacant"
    return "expired" if age is not None and age > record.lease_duration else "leading"


def render_status(report: dict[str, Any]) -> str:
    """Return *report* as a table for a terminal."""
    rows = [_COLUMNS, *(_row(election) for election in report["elections"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(election: dict[str, Any]) -> tuple[str, ...]:
    renewed = election["renew_time"]
    return (
        election["name"],
        election["holder"] or "-",
        election["state"],
        str(election["fencing_token"] or "-"),
        f"{in_words(_age(datetime.fromisoformat(renewed)) or 0)} ago" if renewed else "-",
        str(election["leader_transitions"]),
    )


def _age(time: datetime | None) -> float | None:
    return None if time is None else max(0.0, (datetime.now(timezone.utc) - time).total_seconds())


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
