"""A beat whose messages go to a real RabbitMQ: what it takes, loses, refuses and keeps silent about."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

import amqp
import pytest

from celery_leader.beat.due_times import task_id
from celery_leader.beat.outbox import REFUSED_AGAIN
from celery_leader.ledger import DUE_HEADER, TOKEN_HEADER, Tick
from tests.beat.machines import START, Machine, Machines
from tests.servers import HOST, RabbitServer
from tests.waiting import eventually

# One process has all of them, and one server, which each leaves as it found it.
pytestmark = [pytest.mark.rabbitmq, pytest.mark.xdist_group("rabbitmq"), pytest.mark.timeout(120)]

#: Seconds of the elections, longer than any broker needs to start.
LONG = {"leader_lease_duration": 90.0, "leader_renew_deadline": 60.0}
#: And short; a broker that keeps silent is waited for at most for half the deadline.
TIMES = {"leader_lease_duration": 3.0, "leader_renew_deadline": 2.0, "leader_retry_period": 0.4}
IO_TIMEOUT = 1.0


@pytest.fixture
def machines(machines: Machines, rabbit_server: RabbitServer) -> Iterator[Machines]:
    """Machines on an empty queue `celery`."""
    machines.conf = dict(LONG)
    with channel(rabbit_server) as open_channel:
        open_channel.queue_delete("celery")
    yield machines
    for machine in machines.started:
        machine.scheduler._publisher.forget_connection()


@contextmanager
def channel(server: RabbitServer) -> Iterator[amqp.Channel]:
    """A channel of the broker, by nothing of ours."""
    with amqp.Connection(host=f"{HOST}:{server.port}") as connection:
        yield connection.channel()


def taken(server: RabbitServer, queue: str = "celery") -> list[dict[str, Any]]:
    """Take all messages from *queue*; return their headers."""
    headers = []
    with channel(server) as open_channel:
        while message := open_channel.basic_get(queue, no_ack=True):
            headers.append(message.headers)
    return headers


def leading(machines: Machines, server: RabbitServer) -> Machine:
    """A machine that leads and has looked at its schedule."""
    leader = machines.add(broker=server.url)
    leader.lead()
    leader.tick_until_idle()
    return leader


def tick_at(machines: Machines, leader: Machine, seconds: float = 10) -> None:
    """Let time pass, and send what is due then."""
    machines.wall.advance(seconds)
    leader.lead()
    leader.tick_until_idle()


def unsent(machines: Machines) -> set[str]:
    """The entries whose last claim is not known to have reached the broker."""
    return {name for name, claim in machines.ledger._claims.items() if not claim.sent}


def entry(task: str, **options: Any) -> dict[str, Any]:
    return {"task": task, "schedule": 10.0, "options": options}


def test_each_tick_arrives_once_though_the_broker_is_killed(machines: Machines, rabbit_server: RabbitServer) -> None:
    """With the id and the headers that follow from what it is; what the broker had confirmed outlives it."""
    names = ("a", "b", "c")
    machines.schedule = {name: entry(f"t.{name}") for name in names}
    leader = leading(machines, rabbit_server)
    token = leader.lead()
    tick_at(machines, leader)
    rabbit_server.kill()
    rabbit_server.start()
    tick_at(machines, leader)  # by a connection that was cut while it was idle
    dues = [START + timedelta(seconds=seconds) for seconds in (10, 20)]
    assert Counter(
        (each["task"], each["id"], each[DUE_HEADER], each[TOKEN_HEADER]) for each in taken(rabbit_server)
    ) == Counter(
        (f"t.{name}", task_id("proj", Tick("default", name, due)), due.isoformat(), str(token))
        for name in names
        for due in dues
    )
    assert unsent(machines) == set()


def test_a_tick_is_kept_while_the_broker_is_away(machines: Machines, rabbit_server: RabbitServer) -> None:
    """And arrives once, with the id that it had, when the broker is back; a later one has not taken its place."""
    machines.schedule = {"a": entry("t.a")}
    leader = leading(machines, rabbit_server)
    rabbit_server.kill()
    machines.wall.advance(10)
    leader.scheduler.tick()
    kept = machines.ledger._claims["a"]
    assert not kept.sent
    rabbit_server.start()
    tick_at(machines, leader, 5)
    assert [each["id"] for each in taken(rabbit_server)] == [kept.task_id]


def test_a_broker_that_hangs_holds_up_no_renewal_and_takes_nothing(
    machines: Machines, rabbit_server: RabbitServer
) -> None:
    """What lies in a socket's buffer has not arrived: it stays claimed, and is sent again with its id."""
    machines.conf = dict(TIMES)
    machines.schedule = {"a": entry("t.a")}
    leader = leading(machines, rabbit_server)
    tick_at(machines, leader)  # so that the connection is open
    taken(rabbit_server)
    leader.campaign.start()
    candidate = leader.campaign.candidates["default"]
    term = eventually(lambda: candidate.term)
    rabbit_server.pause()
    try:
        machines.wall.advance(10)
        begun = time.monotonic()
        leader.scheduler.tick()
        lasted = time.monotonic() - begun
        assert candidate.term == term, "it still leads"
        kept = machines.ledger._claims["a"]
        assert not kept.sent
        assert leader.scheduler.counts.sent == 1
        # One wait for the confirmation, two for a new connection.
        assert IO_TIMEOUT * 0.9 < lasted < 3 * IO_TIMEOUT + 1
        assert lasted > TIMES["leader_renew_deadline"], "too short to tell whether it went on renewing"
    finally:
        rabbit_server.resume()
    leader.tick_until_idle()
    assert unsent(machines) == set()
    found = [each["id"] for each in taken(rabbit_server)]
    assert set(found) == {kept.task_id}
    assert len(found) <= 2


def test_a_broker_that_hangs_keeps_no_lease_of_a_beat_that_ends(
    machines: Machines, rabbit_server: RabbitServer
) -> None:
    """Celery 5.7 says goodbye to it, and waits for the answer; the lease is given back before."""
    machines.conf = dict(TIMES)
    machines.schedule = {"a": entry("t.a")}
    leader = leading(machines, rabbit_server)
    tick_at(machines, leader)  # so that the connection is open
    taken(rabbit_server)
    given_back = []
    campaign = mock.Mock(**{"stop.side_effect": lambda: given_back.append(time.monotonic())})
    rabbit_server.pause()
    try:
        begun = time.monotonic()
        with mock.patch.object(leader.scheduler, "_standalone", campaign):
            leader.scheduler.close()
    finally:
        rabbit_server.resume()
    assert given_back[0] - begun < IO_TIMEOUT * 0.9


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_wait_for_the_broker_is_cut_from_another_thread(
    machines: Machines, rabbit_server: RabbitServer, is_connected: bool
) -> None:
    """While it takes a message or shakes hands. The message stays claimed, and is sent when the broker is back."""
    machines.schedule = {"a": entry("t.a")}
    leader = leading(machines, rabbit_server)
    tick_at(machines, leader)
    taken(rabbit_server)
    if not is_connected:
        leader.scheduler._publisher.forget_connection()
    is_over = threading.Event()

    def cut_again() -> None:
        while not is_over.wait(0.2):
            leader.scheduler.cut()

    cutting = threading.Thread(target=cut_again)
    machines.wall.advance(10)
    rabbit_server.pause()
    try:
        cutting.start()
        begun = time.monotonic()
        leader.scheduler.tick()
        lasted = time.monotonic() - begun
    finally:
        is_over.set()
        cutting.join()
        rabbit_server.resume()
    assert lasted < 5, "the time of LONG is 30 s"
    assert unsent(machines) == {"a"}
    leader.tick_until_idle()
    assert unsent(machines) == set()


def test_what_the_broker_refuses_holds_up_nothing_else(
    machines: Machines, rabbit_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    """However many: each stays claimed, is offered again some seconds later, and arrives when it is taken."""
    caplog.set_level(logging.INFO, "celery.beat")
    with channel(rabbit_server) as open_channel:
        limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
        open_channel.queue_declare("full", durable=True, auto_delete=False, arguments=limits)
        open_channel.basic_publish(amqp.Message("full"), routing_key="full")
        open_channel.exchange_delete("late")
    machines.schedule = {
        **{f"late{number}": entry("t.late", exchange="late", routing_key="celery") for number in range(3)},
        **{f"full{number}": entry("t.full", exchange="amq.direct", routing_key="full") for number in range(3)},
        "otherwise": entry("t.full", queue="full"),  # declared without limits
        "unroutable": entry("t.mandatory", exchange="amq.fanout", routing_key="x", mandatory=True),
        "forbidden": entry("t.forbidden", exchange="amq.rabbitmq.trace", routing_key="x"),
        "good": entry("t.good"),
    }
    with channel(rabbit_server) as open_channel:
        open_channel.queue_bind("full", "amq.direct", "full")
    refused = machines.schedule.keys() - {"good"}
    leader = leading(machines, rabbit_server)
    for _ in range(3):
        tick_at(machines, leader)
    assert [each["task"] for each in taken(rabbit_server)] == ["t.good"] * 3
    assert unsent(machines) == refused
    offered = Counter(record.args[0] for record in caplog.records if "Sending due task" in record.msg and record.args)
    assert offered == {**dict.fromkeys(refused, 1), "good": 3}, "it is told of them once each few seconds"
    kept = {name: machines.ledger._claims[name].task_id for name in refused}

    with channel(rabbit_server) as open_channel:
        open_channel.exchange_declare("late", "direct", durable=True, auto_delete=False)
        open_channel.queue_bind("celery", "late", "celery")
        open_channel.queue_bind("celery", "amq.fanout", "x")
        open_channel.queue_delete("full")
        open_channel.queue_declare("full", durable=True, auto_delete=False)
        open_channel.queue_bind("full", "amq.direct", "full")
    now = time.monotonic() + REFUSED_AGAIN
    with mock.patch.object(leader.scheduler._leading.outbox, "_now", return_value=now):
        leader.tick_until_idle()
    with channel(rabbit_server) as open_channel:
        open_channel.queue_unbind("celery", "amq.fanout", "x")
        open_channel.exchange_delete("late")
    arrived = [*taken(rabbit_server), *taken(rabbit_server, "full")]
    assert unsent(machines) == {"forbidden"}
    assert Counter(each["id"] for each in arrived) == Counter(
        ident for name, ident in kept.items() if name != "forbidden"
    )


def test_what_was_refused_is_offered_again_after_a_while(machines: Machines, rabbit_server: RabbitServer) -> None:
    """By itself, and by a next leader at once."""
    machines.schedule = {"bad": entry("t.bad", exchange="nowhere", routing_key="x")}
    first = leading(machines, rabbit_server)
    offer = mock.Mock(side_effect=first.scheduler._publisher.send)
    with (
        mock.patch.object(first.scheduler._publisher, "send", offer),
        mock.patch.object(first.scheduler._leading.outbox, "_now", return_value=0.0) as now,
    ):
        tick_at(machines, first)
        for seconds, offered in ((0.0, 1), (REFUSED_AGAIN - 0.1, 1), (REFUSED_AGAIN, 2), (REFUSED_AGAIN + 0.1, 2)):
            now.return_value = seconds
            first.tick_until_idle()
            assert offer.call_count == offered
    first.resign()
    second = machines.add(broker=rabbit_server.url)
    offer = mock.Mock(side_effect=second.scheduler._publisher.send)
    with mock.patch.object(second.scheduler._publisher, "send", offer):
        second.lead()
        second.scheduler.tick()
    assert offer.call_count == 1
