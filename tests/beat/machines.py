"""A beat in this process: a campaign whose elector is stepped by hand, a broker in memory, a wall clock to turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock

from celery import Celery
from celery.schedules import crontab

from celery_leader.backends.memory import MemoryLedger
from celery_leader.beat.gate import LeaderMixin
from celery_leader.beat.scheduler import leader_scheduler
from celery_leader.leadership.campaign import Campaign, backend_of
from celery_leader.settings import LeaderSettings

START = datetime(2026, 11, 23, 9, 0, 30, tzinfo=timezone.utc)
EVERY_TEN = {"ten": {"task": "t.ten", "schedule": 10.0}}
EACH_MINUTE = {"minute": {"task": "t.minute", "schedule": crontab()}}


def dues(headers: list[dict[str, Any]]) -> list[float]:
    """Return when the ticks of *headers* were due, in seconds after the start."""
    return [(datetime.fromisoformat(each["leader_due_at"]) - START).total_seconds() for each in headers]


@contextmanager
def counted_claims() -> Iterator[Any]:
    """Count the calls by which runs are claimed."""
    with mock.patch.object(MemoryLedger, "claim", autospec=True, side_effect=MemoryLedger.claim) as claim:
        yield claim


@dataclass
class Wall:
    """The wall clock of all machines."""

    now: datetime = START

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.now += timedelta(seconds=seconds)


@dataclass
class Machine:
    """One process with a beat."""

    campaign: Campaign
    scheduler: LeaderMixin

    def lead(self) -> int:
        """Take the lease, which must be free; return the token."""
        assert self.campaign.candidates["default"].elector.try_acquire_or_renew()
        term = self.campaign.candidates["default"].term
        assert term
        return term.fencing_token

    def resign(self) -> None:
        """Give the lease back."""
        self.campaign.candidates["default"].elector.release()

    def tick_until_idle(self) -> None:
        """Tick as often as there is something to do at once."""
        for _ in range(200):
            if self.scheduler.tick() > 0:
                return
        raise AssertionError("the beat finds no rest")


@dataclass
class Machines:
    """Any number of machines on one store and one broker."""

    wall: Wall = field(default_factory=Wall)
    schedule: dict[str, Any] = field(default_factory=dict)
    started: list[Machine] = field(default_factory=list)
    store: str = "memory://beat-tests"
    conf: dict[str, Any] = field(default_factory=dict)

    def add(self, base: Any = "celery.beat:Scheduler", broker: str = "memory://") -> Machine:
        """Start one more."""
        app = Celery("proj", broker=broker, set_as_current=False)
        app.conf.update(
            leader_backend=self.store,
            leader_beat=True,
            beat_schedule=self.schedule,
            broker_connection_retry=False,
            **self.conf,
        )
        app.now = lambda: self.wall.now.astimezone(app.timezone)
        settings = LeaderSettings.from_app(app)
        campaign = Campaign(settings, ["default"], backend=backend_of(settings, "proj"), nodename="w@h")
        machine = Machine(campaign, leader_scheduler(base)(app=app, campaign=campaign))
        self.started.append(machine)
        return machine

    def leader(self, base: Any = "celery.beat:Scheduler") -> Machine:
        """Start one more machine, which replaces the leader if there is one."""
        return self.take_over(self.add(base))

    def take_over(self, machine: Machine) -> Machine:
        """Let *machine* replace the leader if there is one, and read its schedule; return it."""
        for other in self.started:
            other.resign()
        machine.lead()
        machine.tick_until_idle()
        return machine

    def after(self, machine: Machine, seconds: float = 10) -> list[dict[str, Any]]:
        """Let *seconds* pass, let *machine* tick, and return the headers of what was sent."""
        self.wall.advance(seconds)
        machine.tick_until_idle()
        return self.sent()

    @property
    def ledger(self) -> MemoryLedger:
        """The ledger that all share."""
        ledger = self.started[0].campaign.backend.ledger("default")
        assert isinstance(ledger, MemoryLedger)
        return ledger

    def sent(self) -> list[dict[str, Any]]:
        """Take all messages from the broker; return their headers."""
        messages = []
        with Celery("reader", broker="memory://", set_as_current=False).connection() as connection:
            channel = connection.default_channel
            while message := channel.basic_get("celery", no_ack=True):
                messages.append(message.headers)
        return messages
