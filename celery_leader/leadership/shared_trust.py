"""The page of shared memory in which pool children read what their worker's main process trusts.

Layout, in words of 8 bytes: the deadline of the trust (nanoseconds of the boot-time clock, 0 for none), a flag that
forbids new guarded work, and the index of the current slot; then two slots. The writer fills the slot that is not
current and then turns the index, so a reader finds one whole slot at any time, even when the writer was killed
half-way. One store writes each word. A slot also carries a checksum, because processors may show another process the
index before the slot.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any

from celery_leader.election import Term, Trust
from celery_leader.election.clock import boot_time_ns
from celery_leader.election.limits import LONGEST_NAME
from celery_leader.exceptions import ConfigurationError

_DEADLINE, _CLOSING, _INDEX, _SLOTS = range(4)
#: A slot has a checksum, a length, and a text of three names. In JSON a character takes six bytes at most.
_SLOT_WORDS = 2 + (3 * 6 * LONGEST_NAME + 100) // 8
_SIZE = -(-(_SLOTS + 2 * _SLOT_WORDS) * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
_MAX_TEXT = (_SLOT_WORDS - 2) * 8
_PREFIX = "celery-leader-trust-"
_MAX_READS = 4  # a reader never spins: a greenlet that did would starve the writer for ever


def _lock(descriptor: int) -> None:
    """Lock a file until it is closed, at the latest at the end of its process.

    Raises:
        OSError: Another process has locked it.
    """
    import fcntl  # not on Windows, where nothing else here needs it

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _reserve(descriptor: int) -> None:
    """Reserve all the file's room now: a hole that the file system can't fill later ends the process by SIGBUS.

    Raises:
        OSError: The file system is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, _SIZE)
    else:
        os.truncate(descriptor, _SIZE)


def _remove_left_behind(directory: Path) -> None:
    """Remove the files of killed workers. Their ids prove nothing: several containers may share the directory."""
    for path in directory.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # its worker lives, another user owns it, or it is gone already
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                _lock(descriptor)
                path.unlink()
            finally:
                os.close(descriptor)


class SharedTrust:
    """The belief of one worker about one election. Its elector writes, all its processes read.

    Attributes:
        path: The file behind the memory, if there is one.
    """

    def __init__(self, memory: mmap.mmap, path: Path | None = None) -> None:
        """Use *memory*, which is all zeros when new, and the file *path* behind it, if any."""
        self.path = path
        self._memory = memory
        self._words = memoryview(memory).cast("Q")
        self._text: dict[str, Any] = {}
        self._writing = threading.Lock()

    @classmethod
    def create(cls, *, in_file: bool = False) -> SharedTrust:
        """Return a new page, shared with every process that is forked from now on.

        Args:
            in_file: Keep the page in a file, for spawned children, which inherit no memory; see :attr:`path`.

        Raises:
            ConfigurationError: The file system has no room for the file, or no locks.
        """
        if not in_file:
            return cls(mmap.mmap(-1, _SIZE))
        shared_memory = Path("/dev/shm")  # noqa: S108  # Linux' file system in memory; elsewhere a disk will do
        directory = shared_memory if shared_memory.is_dir() else Path(tempfile.gettempdir())
        _remove_left_behind(directory)
        descriptor, name = tempfile.mkstemp(prefix=f".{_PREFIX}{os.getpid()}-", dir=directory)
        with open(descriptor, "r+b") as file:
            try:
                _reserve(file.fileno())
                _lock(file.fileno())
            except OSError as error:
                Path(name).unlink()
                raise ConfigurationError(
                    f"A worker can't keep its spawned children's page of memory in {directory} ({error}). "
                    "Set TMPDIR to a folder on a local disk."
                ) from error
            memory = mmap.mmap(file.fileno(), _SIZE)  # it keeps the file open, and so the lock
        # Only now, with its lock, may other workers find the file: they remove files that are not locked.
        return cls(memory, Path(name).rename(directory / Path(name).name[1:]))

    @classmethod
    def attach(cls, path: Path) -> SharedTrust:
        """Return the page that another process keeps in the file *path*.

        Raises:
            OSError: There is no such file.
        """
        with path.open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), _SIZE), path)

    # -- written by the elector's process ----------------------------------------------------------------------

    def publish(self, trust: Trust | None) -> None:
        """Write *trust*; None ends the last one."""
        if trust is None:
            self._words[_DEADLINE] = 0
            return
        term = trust.term
        self._write(election=term.election, identity=term.identity, token=term.fencing_token)
        self._words[_DEADLINE] = int(trust.until * 1e9)

    def publish_leader(self, identity: str) -> None:
        """Write *identity*, the holder that the elector last observed; empty for nobody."""
        self._write(leader=identity)

    def close_to_new_work(self) -> None:
        """Forbid new guarded work, though the worker still holds the lease.

        It writes one word and nothing else, so a signal handler may call it.
        """
        self._words[_CLOSING] = 1

    def unlink(self) -> None:
        """Remove the file behind the memory, if there is one."""
        if self.path:
            with contextlib.suppress(OSError):
                self.path.unlink()

    # -- read by all ---------------------------------------------------------------------------------------------

    def is_leader(self) -> bool:
        """Return whether the worker leads at this moment."""
        return boot_time_ns() < self._words[_DEADLINE]

    def accepts_work(self) -> bool:
        """Return whether guarded work may begin at this moment."""
        return self.is_leader() and not self.is_closing()

    def is_closing(self) -> bool:
        """Return whether new guarded work is forbidden, though the worker may still hold the lease."""
        return bool(self._words[_CLOSING])

    def term(self) -> Term | None:
        """Return the term in which the worker leads at this moment."""
        text = self._read() if self.is_leader() else None
        if text is None or not self.is_leader():  # asked again: the text may be of an earlier term
            return None
        return Term(text["election"], text["identity"], text["token"])

    def leader(self) -> str:
        """Return the holder that the worker's elector last observed; empty for nobody."""
        return str((self._read() or {}).get("leader", ""))

    def _write(self, **changes: Any) -> None:
        with self._writing:
            text = {**self._text, **changes}
            if text != self._text:
                self._text = text
                self._fill_slot(json.dumps(text, ensure_ascii=False).encode())

    def _fill_slot(self, encoded: bytes) -> None:
        slot = 1 - self._words[_INDEX]
        first = _SLOTS + slot * _SLOT_WORDS
        start = (first + 2) * 8
        self._memory[start : start + len(encoded)] = encoded
        self._words[first + 1] = len(encoded)
        self._words[first] = zlib.crc32(encoded)
        self._words[_INDEX] = slot

    def _read(self) -> dict[str, Any] | None:
        for _ in range(_MAX_READS):
            first = _SLOTS + (self._words[_INDEX] & 1) * _SLOT_WORDS
            checksum, length = self._words[first], self._words[first + 1]
            encoded = self._memory[(first + 2) * 8 : (first + 2) * 8 + min(length, _MAX_TEXT)]
            if length and zlib.crc32(encoded) == checksum:
                with contextlib.suppress(ValueError):
                    text: dict[str, Any] = json.loads(encoded)
                    return text
        return None
