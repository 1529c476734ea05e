"""Calls that come back in time, whatever they wait for; what the stores share. Their own tests meet real servers."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import ssl
import threading
import time
from typing import Any

import pytest

from celery_leader.backends.bounded import Session, SessionThread, cut_socket
from celery_leader.exceptions import RecordConflict, StoreUnavailable
from tests.waiting import eventually

TIMEOUT = 0.4
SLACK = 0.5


class Place:
    """A store that numbers its connections, and gives no answer until one is cut."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.done: list[Any] = []
        self.is_cut = threading.Event()

    def session(self) -> Session[int]:
        return Session("a place", TIMEOUT, lambda session: Connection(session, self))

    def wait(self, connection: int) -> None:
        self.is_cut.wait(60)
        raise OSError("the other end is gone")


class Connection(SessionThread[int]):
    """One of them."""

    def __init__(self, session: Session[int], place: Place) -> None:
        super().__init__(session, "a place's thread")
        self.place = place
        self.number = 0

    def connect(self) -> int:
        self.number = self.number or next(self.place.numbers)
        return self.number

    def cut(self) -> None:
        self.place.is_cut.set()

    def disconnect(self) -> None:
        self.number = 0


def threads() -> list[threading.Thread]:
    """Those that wait for a place."""
    return [thread for thread in threading.enumerate() if thread.name == "a place's thread"]


def test_each_of_several_callers_waits_no_longer_than_it_may() -> None:
    """They share a connection, not their time; what they asked for is not done once the first has given up."""
    place = Place()
    session = place.session()
    lasted: list[float] = []

    def call(work: Any) -> None:
        begun = time.monotonic()
        with pytest.raises((StoreUnavailable, OSError), match=r"did not answer within 0\.4 s|cut off"):
            session.ask(work)
        lasted.append(time.monotonic() - begun)

    works = [place.wait, *[lambda connection: place.done.append("late")] * 3]
    callers = [threading.Thread(target=call, args=[work]) for work in works]
    for caller in callers:
        caller.start()
        eventually(lambda: threads() or lasted)  # the first one's work comes first
    for caller in callers:
        caller.join(10)
    assert len(lasted) == 4
    assert max(lasted) < TIMEOUT + SLACK
    eventually(lambda: not threads())
    assert place.done == []
    session.ask(place.done.append)
    assert len(place.done) == 1
    session.close()


def test_an_answer_leaves_the_connection_and_an_error_does_not() -> None:
    """A conflict is an answer; after anything else the next call opens another."""
    session = Place().session()

    def fail(error: BaseException) -> Any:
        raise error

    assert session.ask(lambda connection: connection) == 1
    with pytest.raises(RecordConflict):
        session.ask(lambda connection: fail(RecordConflict()))
    assert session.ask(lambda connection: connection) == 1
    with pytest.raises(KeyError):
        session.ask(lambda connection: fail(KeyError()))
    assert session.ask(lambda connection: connection) == 2
    session.close()
    assert not threads()
    assert session.ask(lambda connection: connection) == 3
    session.close()


def test_who_is_forgotten_leaves_nothing_behind() -> None:
    """Its thread ends."""
    session = Place().session()
    session.ask(lambda connection: connection)
    assert len(threads()) == 1
    del session
    gc.collect()
    eventually(lambda: not threads())


def test_a_forked_child_waits_for_none_of_its_parents_threads() -> None:
    """One of them may be about to ask at that moment; the child asks and closes on its own."""
    session = Place().session()
    session.ask(lambda connection: connection)
    with session._mutex:
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # instead of waiting for ever
            answered = False
            try:
                answered = session.ask(lambda connection: connection) == 2
                session.close()
            finally:
                os._exit(0 if answered else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert session.ask(lambda connection: connection) == 1
    session.close()


def test_a_tls_socket_keeps_its_session_when_it_is_cut() -> None:
    """Without it, a thread that writes at that moment would write plain text."""
    one, other = socket.socketpair()
    with (
        other,
        ssl.create_default_context().wrap_socket(one, do_handshake_on_connect=False, server_hostname="h") as tls,
    ):
        cut_socket(tls)
        assert tls._sslobj is not None  # type: ignore[attr-defined]  # what the writer uses
        assert other.recv(1) == b""
        cut_socket(tls)
    cut_socket(tls)
