"""Contests between threads, in one process or in two."""

from __future__ import annotations

import atexit
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from celery_leader.election import StoredRecord
from celery_leader.exceptions import RecordConflict

THREADS = 8
PROCESSES = 2
_PATIENCE = 90.0  # how long (seconds) a contest waits for a missing player

#: Waits until all players have called it.
Meet = Callable[[], None]
#: A player's part in a contest. Called with the maker of locks or ledgers, the player's number, and a Meet.
Part = Callable[[Callable[[str], Any], int, Meet], Any]


def contest(
    part: Part, make: Callable[[str], Any], elsewhere: Callable[[str], Any] | None, processes: int = PROCESSES
) -> list[Any]:
    """Let *processes* players play *part* at the same time; return the result of each.

    Args:
        part: The part. Its name must be importable.
        make: Makes locks or ledgers in this process.
        elsewhere: Makes them in any process, and can be pickled. Then each player has a process of its own. If it is
            None, the players are threads of this process.
        processes: The number of players.
    """
    if elsewhere is None:
        barrier = threading.Barrier(processes)
        return list(values(race(processes, lambda number: part(make, number, lambda: _wait(barrier)))))
    players = [_player(number) for number in range(processes)]
    for number, player in enumerate(players):
        player.send((part, elsewhere, number))
    while True:
        answers = [player.receive() for player in players]
        if all(kind == "meet" for kind, _ in answers):
            for player in players:
                player.send("go")
        elif all(kind == "done" for kind, _ in answers):
            return [result for _, result in answers]
        else:
            _player.cache_clear()  # they are out of step: the next contest gets new players
            raise AssertionError("a contest failed:\n" + "\n".join(f"{kind}: {result}" for kind, result in answers))


class _Line:
    """Sends objects to another process, and receives its objects."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._file = end.makefile("rwb")

    def send(self, message: object) -> None:
        """Send *message*."""
        pickle.dump(message, self._file)
        self._file.flush()

    def receive(self) -> Any:
        """Return the next object from the other side; raises EOFError when that is gone."""
        return pickle.load(self._file)  # noqa: S301  # our own child or parent

    def close(self) -> None:
        """Close the line."""
        with suppress(OSError):
            self._file.close()
        self._end.close()


@cache
def _player(number: int) -> _Line:
    """Return the line to player *number*, a process that plays parts until this one ends."""
    ours, theirs = socket.socketpair()
    ours.settimeout(_PATIENCE)
    with theirs:
        program = f"from {__name__} import play; play({theirs.fileno()})"
        process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    line = _Line(ours)
    line.send(sys.path)

    def dismiss() -> None:
        line.close()
        process.kill()
        process.wait()

    atexit.register(dismiss)
    return line


def play(descriptor: int) -> None:
    """Play the parts that the socket *descriptor* brings, until it closes."""
    line = _Line(socket.socket(fileno=descriptor))
    sys.path[:] = line.receive()

    def meet() -> None:
        line.send(("meet", None))
        line.receive()

    while True:
        try:
            part, make, number = line.receive()
            result = part(make, number, meet)
        except EOFError:
            return
        except Exception:  # noqa: BLE001  # the other side reports it
            line.send(("failed", traceback.format_exc()))
        else:
            line.send(("done", result))


def _wait(barrier: threading.Barrier) -> None:
    barrier.wait(_PATIENCE)


def threads_of(meet: Meet, action: Callable[[int, Meet], Any]) -> list[Any]:
    """Run *action* in eight threads; return what each returned or raised.

    Args:
        meet: Waits for the other players.
        action: Called with the thread's number, and with a Meet for the threads of all players.
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
        except Exception as error:  # noqa: BLE001  # the caller examines it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE)
    return results


def values(results: Sequence[Any]) -> Sequence[Any]:
    """Return *results*; raise the first exception among them."""
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
