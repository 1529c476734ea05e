"""``celery -A proj leader …``."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.signals import beat_init, worker_init

from celery_leader.election import ElectionState, state_of
from celery_leader.election.alarm import in_words
from celery_leader.election.limits import shown
from celery_leader.exceptions import (
    ConfigurationError,
    LeadershipLost,
    RecordDamaged,
    RecordNotFound,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from celery_leader.election import ElectionConfig, ElectionRecord, Lock
    from celery_leader.ledger import Ledger

#: Exit statuses: Celery's for a command without an answer; ours for "no leader", and for wrong settings.
EX_UNAVAILABLE = 69
EX_NO_LEADER = 1

_COLUMNS = ("NAME", "HOLDER", "STATE", "TOKEN", "RENEWED", "TRANSITIONS")


# The celery command imports this module before it starts a worker or a beat, even for an app that was never set up.
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
    """Hold the commands below."""


@leader.command(cls=CeleryCommand)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--check", is_flag=True, help="Exit with status 1 unless every election has a leader that can work.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, check: bool) -> None:
    """Show the record of each election, as the store holds it.

    The exit status is 0; 1 for a wrong setting, or with --check when an election has no leader or its beat can't send;
    69 when the store does not answer.
    """
    app = ctx.obj.app
    _warn_without_setup(app)
    try:
        report = read_status(app)
    except (ConfigurationError, StoreUnavailable) as error:
        if as_json:
            click.echo(json.dumps({"elections": [], "error": str(error)}))
        click.echo(f"Error: {error}", err=True)
        ctx.exit(EX_UNAVAILABLE if isinstance(error, StoreUnavailable) else EX_NO_LEADER)
    click.echo(json.dumps(report) if as_json else render_status(report))
    if check and any(not each["state"].is_led or each["problem"] for each in report["elections"]):
        ctx.exit(EX_NO_LEADER)


def _warn_without_setup(app: Any) -> None:
    from celery_leader.settings import apps_set_up

    if app not in apps_set_up:
        message = "Warning: celery_leader.setup(app) was not called: no worker of this app takes part in an election."
        click.echo(message, err=True)


def read_status(app: Any) -> dict[str, Any]:
    """Return the record of each election of *app*, and what is wrong with it, as plain JSON values.

    Raises:
        ConfigurationError: A setting is wrong, or the store lacks its tables.
        StoreUnavailable: The store does not answer, or holds something damaged.
    """
    from celery_leader.leadership.campaign import backend_of  # the celery command imports this module each time
    from celery_leader.settings import LeaderSettings

    settings = LeaderSettings.from_app(app)
    if settings.backend.startswith("memory:"):
        raise ConfigurationError(
            "leader_backend is memory://: each worker keeps elections in its own memory, and no other "
            "process sees them. Ask the workers: celery -A … inspect leader_status"
        )
    backend = backend_of(settings, app.main)
    backend.check()  # names the cure of a database that was not migrated
    elections = [_read_election(backend, settings, name) for name in settings.all_elections]
    known = [election for election in elections if election["fencing_token"] or election["name"] in settings.elections]
    return {"backend": backend.describe(), "elections": known}


def _read_election(backend: Any, settings: Any, name: str) -> dict[str, Any]:
    config = settings.election(name, identity="status")
    lock = backend.lock(name)
    try:
        record = _record(lock)
        state = _state(record, config.lease_duration) or _watched_state(lock, config)
        has_beat = record is not None and state.is_led and name == settings.beat_election
        problem = _problem_of_beat(backend.ledger(name), lock, record.fencing_token) if record and has_beat else None
    finally:
        lock.close()
    return {
        "name": name,
        "state": state,
        "problem": problem,
        "holder": record.holder_identity if record else "",
        "fencing_token": record.fencing_token if record else 0,
        "acquire_time": _text(record.acquire_time) if record else None,
        "renew_time": _text(record.renew_time) if record else None,
        "lease_duration": record.lease_duration if record else None,
        "leader_transitions": record.leader_transitions if record else 0,
    }


def _record(lock: Lock) -> ElectionRecord | None:
    try:
        return lock.get().record
    except RecordNotFound:
        return None


def _state(record: ElectionRecord | None, lease: float) -> ElectionState | None:
    """Return the state by this machine's clock; None where the record's time says nothing.

    The holder's wall clock and this one's may differ. So a time that is ahead by more than *lease* (seconds), which
    this app's candidates ask for, tells nothing; nor does a record that none of them would have left alone for so long.
    """
    if record is None or not record.holder_identity:
        return ElectionState.VACANT
    if record.renew_time is None:
        return None
    age = _seconds_since(record.renew_time)
    state = state_of(record.holder_identity, record.lease_duration, age)
    return None if state.is_led and not -lease <= age <= lease else state


def _watched_state(lock: Lock, config: ElectionConfig) -> ElectionState:
    """Return the state of a record whose times tell nothing, by watching it for the length of a lease."""
    from celery_leader.leadership.watch import LeaderFromOutside

    watched, end = LeaderFromOutside(lock), time.monotonic() + config.lease_duration
    while time.monotonic() < end:
        if (leader := watched.look(time.monotonic())) is not None:
            return ElectionState.LEADING if leader else ElectionState.VACANT
        time.sleep(config.retry_period / 4)
    return ElectionState.EXPIRED


def _problem_of_beat(ledger: Ledger, lock: Lock, token: int) -> str | None:
    """Return why the leader's beat can't send, as far as its ledger shows. Writes nothing."""
    try:
        ledger.confirm(token, ())
    except RecordNotFound:  # the beat has not begun
        return None
    except LeadershipLost as lost:
        record = _record(lock)
        if record is None or record.fencing_token != token:  # another candidate has just taken over
            return None
        return f"the beat of this leader sends nothing: {lost}. No such term leads. The cure: {lost.cure}"
    except RecordDamaged as error:
        return f"the beat of this leader sends nothing: {error}"
    finally:
        ledger.close()
    return None


def render_status(report: dict[str, Any]) -> str:
    """Return *report* as a table for a terminal, with the problems below it."""
    problems = [f"{shown(each['name'])}: {each['problem']}" for each in report["elections"] if each["problem"]]
    return "\n".join([_table(report), *problems])


def _table(report: dict[str, Any]) -> str:
    rows = [_COLUMNS, *(_row(election) for election in report["elections"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(election: dict[str, Any]) -> tuple[str, ...]:
    return (
        shown(election["name"]),
        shown(election["holder"]) or "-",
        election["state"].value,
        str(election["fencing_token"] or "-"),
        _ago(election["renew_time"]),
        str(election["leader_transitions"]),
    )


def _ago(time: str | None) -> str:
    return f"{in_words(max(0.0, _seconds_since(datetime.fromisoformat(time))))} ago" if time else "-"


def _seconds_since(time: datetime) -> float:
    return (datetime.now(timezone.utc) - time).total_seconds()


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
