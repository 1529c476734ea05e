"""The page of shared memory that tells pool children what their worker's main process trusts.

Layout, in words of 8 bytes: the deadline of the trust (nanoseconds of the boot-time clock, 0 for none), a flag that
says that no new guarded work may begin, and which of two slots is current; then the two slots. The writer fills the
slot that is not current and then turns the index, so that a reader finds one whole slot at any time, even when the
writer was killed half-way. Each word is written by one store; a slot also carries a checksum, because processors
may show another process the index before the slot.
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
#: Per slot: checksum, length, then the text: three names, in whose JSON a character takes six bytes at most.
_SLOT_WORDS = 2 + (3 * 6 * LONGEST_NAME + 100) // 8
_SIZE = -(-(_SLOTS + 2 * _SLOT_WORDS) * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
_MAX_TEXT = (_SLOT_WORDS - 2) * 8
_PREFIX = "celery-leader-trust-"
_MAX_READS = 4  # a reader never spins: a greenlet that did would starve the writer for ever


def _lock(descriptor: int) -> None:
    """Lock a file for as long as it is open, which ends with its process.

    Raises:
        OSError: Somebody has it locked.
    """
    import fcntl  # not on Windows, where nothing else here needs it

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _reserve(descriptor: int) -> None:
    """Give a file all its room now: a hole that the file system can't fill later ends the process by SIGBUS.

    Raises:
        OSError: There is not so much.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, _SIZE)
    else:
        os.truncate(descriptor, _SIZE)


def _remove_left_behind(directory: Path) -> None:
    """Remove the files of workers that were killed. A process id would not tell: containers may share the directory."""
    for path in directory.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # its worker lives, it is another user's, or just gone
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                _lock(descriptor)
                path.unlink()
            finally:
                os.close(descriptor)


class SharedTrust:
    """What one worker believes of one election. Written by its elector, read by all of its processes."""

    def __init__(self, memory: mmap.mmap, path: Path | None = None) -> None:
        """Use *memory*, which is all zeros when new; *path* is the file behind it, if any."""
        self._memory = memory
        self._words = memoryview(memory).cast("Q")
        self._path = path
        self._text: dict[str, Any] = {}
        self._writing = threading.Lock()

    @classmethod
    def create(cls, *, in_file: bool = False) -> SharedTrust:
        """Return a new one, shared with every process that is forked from now on.

        Args:
            in_file: Keep it in a file, for children that are spawned and inherit no memory; see :attr:`path`.

        Raises:
            ConfigurationError: The file can't be made as large as it has to be, or not be locked.
        """
        if not in_file:
            return cls(mmap.mmap(-1, _SIZE))
        shared_memory = Path("/dev/shm")  # noqa: S108  # Linux' file system in memory; elsewhere a file does
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
                    f"{directory} is no place for what a worker tells its spawned children ({error}). "
                    "Set TMPDIR to a folder on a local disk."
                ) from error
            memory = mmap.mmap(file.fileno(), _SIZE)  # has a handle of its own, and with it the lock
        # Only now is it seen by those who remove what nobody has locked.
        return cls(memory, Path(name).rename(directory / Path(name).name[1:]))

    @classmethod
    def attach(cls, path: Path) -> SharedTrust:
        """Return the one that another process keeps in the file *path*.

        Raises:
            OSError: There is no such file.
        """
        with path.open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), _SIZE), path)

    @property
    def path(self) -> Path | None:
        """The file behind it, if there is one."""
        return self._path

    # -- written by the elector's process ----------------------------------------------------------------------

    def publish(self, trust: Trust | None) -> None:
        """Tell what is trusted from now on."""
        if trust is None:
            self._words[_DEADLINE] = 0
            return
        term = trust.term
        self._write(election=term.election, identity=term.identity, token=term.fencing_token)
        self._words[_DEADLINE] = int(trust.until * 1e9)

    def publish_leader(self, identity: str) -> None:
        """Tell whom the elector last observed as the holder."""
        self._write(leader=identity)

    def close_to_new_work(self) -> None:
        """Tell that no guarded work may begin any more, though the lease is still held.

        One word is written and nothing else, so that a signal handler may do it.
        """
        self._words[_CLOSING] = 1

    def unlink(self) -> None:
        """Remove the file behind it, if there is one."""
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink()

    # -- read by all ---------------------------------------------------------------------------------------------

    def is_leader(self) -> bool:
        """Return whether the worker leads at this moment."""
        return boot_time_ns() < self._words[_DEADLINE]

    def accepts_work(self) -> bool:
        """Return whether guarded work may begin at this moment."""
        return self.is_leader() and not self.is_closing()

    def is_closing(self) -> bool:
        """Return whether no guarded work may begin any more, though the lease may still be held."""
        return bool(self._words[_CLOSING])

    def term(self) -> Term | None:
        """Return the term that the worker leads in at this moment."""
        text = self._read() if self.is_leader() else None
        if text is None or not self.is_leader():  # asked again: what was read may be of an earlier term
            return None
        return Term(text["election"], text["identity"], text["token"])

    def leader(self) -> str:
        """Return whom the worker's elector last observed as the holder, empty for nobody."""
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
