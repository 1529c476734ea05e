"""Contests between threads of one process, or of two."""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

from celery_leader.election import StoredRecord
from celery_leader.exceptions import RecordConflict

THREADS = 8
PROCESSES = 2
_PATIENCE = 90.0  # seconds until somebody who does not come to a meeting is given up

#: Waits until the others call it, too.
Meet = Callable[[], None]
#: A part in a contest: called with the maker of locks or ledgers, its number, and how to meet the others.
Part = Callable[[Callable[[str], Any], int, Meet], Any]


def contest(part: Part, make: Callable[[str], Any], elsewhere: Callable[[str], Any] | None) -> list[Any]:
    """Have *part* played twice at the same time; return what each returned.

    Args:
        part: The part. Its name must be importable.
        make: Makes locks or ledgers in this process.
        elsewhere: Makes them in any process, and can be pickled: the part is played in two processes of their own.
            None: in this one.
    """
    if elsewhere is None:
        barrier = threading.Barrier(PROCESSES)
        return list(values(race(PROCESSES, lambda number: part(make, number, lambda: _wait(barrier)))))
    players = [_player(number) for number in range(PROCESSES)]
    for number, player in enumerate(players):
        player.send((part, elsewhere, number))
    while True:
        answers = [_answer(player) for player in players]
        if all(kind == "meet" for kind, _ in answers):
            for player in players:
                player.send("go")
        elif all(kind == "done" for kind, _ in answers):
            return [result for _, result in answers]
        else:
            _player.cache_clear()  # they are out of step: the next contest gets others
            raise AssertionError(f"a contest ended with {answers}")


def _answer(player: Connection) -> tuple[str, Any]:
    if not player.poll(_PATIENCE):
        return "silent", None
    answer: tuple[str, Any] = player.recv()
    return answer


@cache
def _player(number: int) -> Connection:
    """Return the connection to a process that plays parts until this process ends."""
    ours, theirs = socket.socketpair()
    with theirs:
        program = f"from {__name__} import play; play({theirs.fileno()})"
        process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    connection = Connection(ours.detach())
    connection.send(sys.path)

    def dismiss() -> None:
        connection.close()
        process.kill()
        process.wait()

    atexit.register(dismiss)
    return connection


def play(descriptor: int) -> None:
    """Play parts, as told through the socket *descriptor*, until it closes."""
    connection = Connection(descriptor)
    sys.path[:] = connection.recv()

    def meet() -> None:
        connection.send(("meet", None))
        connection.recv()

    with suppress(EOFError):
        while True:
            part, make, number = connection.recv()
            try:
                result = part(make, number, meet)
            except Exception:  # noqa: BLE001  # the other side looks at it
                connection.send(("failed", traceback.format_exc()))
            else:
                connection.send(("done", result))


def _wait(barrier: threading.Barrier) -> None:
    barrier.wait(_PATIENCE)


def threads_of(meet: Meet, action: Callable[[int, Meet], Any]) -> list[Any]:
    """Run *action* in eight threads; return what each returned or raised.

    Args:
        meet: How to meet the other processes.
        action: Called with the thread's number, and with how to meet the threads of all processes.
    """
    barrier = threading.Barrier(THREADS, action=meet)
    return race(THREADS, lambda number: action(number, lambda: _wait(barrier)))


def race(count: int, action: Callable[[int], object]) -> list[Any]:
    """Run *action* in *count* threads that start together; return what each returned or raised."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(index: int) -> None:
        barrier.wait(10)
        try:
            results[index] = action(index)
        except Exception as error:  # noqa: BLE001  # the caller looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE)
    return results


def values(results: Sequence[Any]) -> Sequence[Any]:
    """Return *results*, in which there must be no exception."""
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def raises(expected: type[Exception], action: Callable[[], object]) -> None:
    """Fail unless *action* raises *expected*."""
    try:
        result = action()
    except expected:
        return
    raise AssertionError(f"expected {expected.__name__}, got {result!r}")


def assert_one_winner(results: Sequence[object]) -> StoredRecord:
    """Return the one record among *results*; all others must be conflicts."""
    winners = [result for result in results if isinstance(result, StoredRecord)]
    losers = [result for result in results if isinstance(result, RecordConflict)]
    assert (len(winners), len(losers)) == (1, len(results) - 1), results
    return winners[0]
