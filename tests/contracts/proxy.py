"""What a network does to a store that is reached over TCP."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class _Mode(Enum):
    """What becomes of what passes."""

    UNHARMED = "unharmed"
    DROP_REPLIES = "drop replies"
    CUT_AT_REPLY = "cut at reply"
    CUT_AT_REQUEST = "cut at request"
    SILENT = "silent"
    TRICKLE = "trickle"


class Proxy:
    """Passes bytes on between a lock and its store, until it is told to harm them.

    ::

        with Proxy(("127.0.0.1", 6379)) as proxy:
            lock = MyLock(*proxy.address)
            proxy.drop_replies()    # what is asked from now on is done, and nobody is told
            ...
            proxy.heal()

    A harm ends with :meth:`heal`, which also cuts the connections that were harmed.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        """Listen on a free port of 127.0.0.1 for whoever wants to reach *target*, a host and a port."""
        self._target = target
        self._mode = _Mode.UNHARMED
        self._next: tuple[bytes, _Mode] | None = None  # what a request contains with which a harm begins
        self._pause = 0.0
        self._healed = threading.Event()  # ends the pauses of a trickle
        self._closed = False
        self._mutex = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, name="celery-leader-proxy", daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def drop_replies(self, after: bytes = b"") -> None:
        """Hand requests on and throw answers away: the store does what it is told, and nobody hears of it.

        Args:
            after: Begin with the request that contains this; at once when empty.
        """
        self._harm(_Mode.DROP_REPLIES, after)

    def cut_at_reply(self, after: bytes = b"") -> None:
        """Hand requests on and cut the connection when the answer comes.

        Args:
            after: Begin with the request that contains this; at once when empty.
        """
        self._harm(_Mode.CUT_AT_REPLY, after)

    def cut_at_request(self, after: bytes = b"") -> None:
        """Cut the connection when a request comes; the store does not see it.

        Args:
            after: Begin with the request that contains this; at once when empty.
        """
        self._harm(_Mode.CUT_AT_REQUEST, after)

    def _harm(self, mode: _Mode, after: bytes) -> None:
        if after:
            self._next = after, mode
        else:
            self._mode = mode

    def fall_silent(self) -> None:
        """Accept connections and requests, hand nothing on and answer nothing."""
        self._mode = _Mode.SILENT

    def trickle(self, pause: float) -> None:
        """Hand answers on byte by byte, with *pause* seconds between two: each wait is short, all of them are not."""
        self._pause = pause
        self._mode = _Mode.TRICKLE

    def cut(self) -> None:
        """Cut the connections that there are, with a reset; new ones are fine."""
        with self._mutex:
            harmed, self._open = self._open, set()
        for each in harmed:
            _reset(each)

    def heal(self) -> None:
        """Pass everything on again. Connections that there are get cut: parts of their streams are missing."""
        self._mode, self._next = _Mode.UNHARMED, None
        self._healed.set()
        self._healed = threading.Event()
        self.cut()

    def close(self) -> None:
        """End it and cut all connections."""
        self._closed = True
        # A shutdown wakes the thread that accepts; closing alone would leave it there.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal()

    def __enter__(self) -> Self:
        """Return the proxy."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            with suppress(OSError):
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._mutex:
            self._open |= {client, server}
        for pump in (self._requests, self._replies):
            threading.Thread(target=self._pump, args=(pump, client, server), daemon=True).start()

    def _pump(
        self, pump: Callable[[socket.socket, socket.socket], None], client: socket.socket, server: socket.socket
    ) -> None:
        with suppress(OSError):
            pump(client, server)
        with self._mutex:
            self._open -= {client, server}
        for each in (client, server):
            _reset(each)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        while data := client.recv(65_536):
            if (harm := self._next) and harm[0] in data:
                self._mode = harm[1]
            if self._mode is _Mode.CUT_AT_REQUEST:
                return
            if self._mode is not _Mode.SILENT:
                server.sendall(data)

    def _replies(self, client: socket.socket, server: socket.socket) -> None:
        while data := server.recv(65_536):
            mode = self._mode
            if mode is _Mode.CUT_AT_REPLY:
                return
            if mode is _Mode.TRICKLE:
                self._send_slowly(client, data)
            elif mode is _Mode.UNHARMED:
                client.sendall(data)

    def _send_slowly(self, client: socket.socket, data: bytes) -> None:
        healed = self._healed
        for byte in data:
            client.sendall(bytes([byte]))
            if healed.wait(self._pause):
                return


def _reset(connection: socket.socket) -> None:
    """Close *connection* so that the other side gets an error, and whoever waits here does, too."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
