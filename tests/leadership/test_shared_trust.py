"""The page of shared memory: what one process writes, every other reads whole, and time ends it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from celery_leader.election import Term, Trust
from celery_leader.election.clock import boot_time_ns
from celery_leader.election.limits import LONGEST_NAME
from celery_leader.exceptions import ConfigurationError
from celery_leader.leadership.shared_trust import SharedTrust


def trust(seconds: float = 60.0, token: int = 7, identity: str = "me") -> Trust:
    """Return a trust that ends *seconds* from now."""
    now = boot_time_ns() / 1e9
    return Trust(Term("default", identity, token), renewed_at=now, until=now + seconds)


def in_child(question: object) -> bytes:
    """Fork, and return what the child says."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, repr(question()).encode())  # type: ignore[operator]
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_a_new_one_says_no() -> None:
    """Nobody leads before the first election."""
    shared_trust = SharedTrust.create()
    assert not shared_trust.is_leader()
    assert shared_trust.term() is None
    assert shared_trust.leader() == ""


def test_what_is_published_is_read() -> None:
    """Term and leader, with a great token and names beyond ASCII."""
    shared_trust = SharedTrust.create()
    shared_trust.publish(trust(token=2**52 + 1, identity="celery@wéb/1/x"))
    shared_trust.publish_leader("celery@wéb/1/x")
    assert shared_trust.is_leader()
    assert shared_trust.term() == Term("default", "celery@wéb/1/x", 2**52 + 1)
    assert shared_trust.leader() == "celery@wéb/1/x"


def test_time_ends_a_trust_that_nobody_ended() -> None:
    """A main process that is paused can't clear the page: the deadline does."""
    shared_trust = SharedTrust.create()
    shared_trust.publish(trust(seconds=-0.001))
    assert not shared_trust.is_leader()
    assert shared_trust.term() is None


def test_the_end_of_a_trust_is_seen_at_once() -> None:
    """None ends it."""
    shared_trust = SharedTrust.create()
    shared_trust.publish(trust())
    shared_trust.publish(None)
    assert not shared_trust.is_leader()


def test_a_trust_that_ends_while_it_is_read_has_no_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read then may be of an earlier term: a reader looks at the deadline again."""
    shared_trust = SharedTrust.create()
    shared_trust.publish(trust(seconds=60))
    end = shared_trust._words[0]
    times = iter([end - 1, end])
    monkeypatch.setattr("celery_leader.leadership.shared_trust.boot_time_ns", lambda: next(times))
    assert shared_trust.term() is None
    times = iter([end - 1, end - 1])
    assert shared_trust.term() == Term("default", "me", 7)


def test_a_closing_one_leads_but_accepts_no_work() -> None:
    """While guarded work drains the lease is still held."""
    shared_trust = SharedTrust.create()
    shared_trust.publish(trust())
    assert shared_trust.accepts_work()
    shared_trust.close_to_new_work()
    assert shared_trust.is_leader()
    assert not shared_trust.accepts_work()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_see_later_writes() -> None:
    """Memory is shared from before the fork."""
    shared_trust = SharedTrust.create()
    assert in_child(shared_trust.is_leader) == b"False"
    shared_trust.publish(trust(token=9))
    assert in_child(lambda: shared_trust.term().fencing_token) == b"9"  # type: ignore[union-attr]


def test_another_process_attaches_to_the_file() -> None:
    """Spawned children find the page by its path; it goes with its worker."""
    shared_trust = SharedTrust.create(in_file=True)
    assert shared_trust.path
    other = SharedTrust.attach(shared_trust.path)
    shared_trust.publish(trust(token=11))
    term = other.term()
    assert term
    assert term.fencing_token == 11
    shared_trust.unlink()
    assert not shared_trust.path.exists()


def test_files_of_killed_workers_are_removed_by_the_next() -> None:
    """Nobody else does; the files of those that live stay, whoever looks."""
    program = (
        "import signal\nfrom celery_leader.leadership.shared_trust import SharedTrust\n"
        "shared_trust = SharedTrust.create(in_file=True)\nprint(shared_trust.path, flush=True)\nsignal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            path = Path(worker.stdout.readline().strip())
            mine = SharedTrust.create(in_file=True)
            assert mine.path
            again = SharedTrust.create(in_file=True)
            assert path.exists()
            assert mine.path.exists()
        finally:
            worker.kill()
    assert path.exists()
    last = SharedTrust.create(in_file=True)
    assert not path.exists()
    assert mine.path.exists()
    for shared_trust in (mine, again, last):
        shared_trust.unlink()


def test_no_reader_ever_sees_half_a_write() -> None:
    """Identity and token of a term belong together, however fast terms change."""
    shared_trust = SharedTrust.create()
    stop = threading.Event()

    def write() -> None:
        token = 0
        while not stop.is_set():
            token += 1
            shared_trust.publish(trust(token=token, identity=str(token) * 20))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        terms = [shared_trust.term() for _ in range(20_000)]
        deadline = time.monotonic() + 30  # on a busy machine the two take turns seldom
        while len({term for term in terms if term}) <= 10 and time.monotonic() < deadline:
            terms.append(shared_trust.term())
    finally:
        stop.set()
        writer.join(5)
    seen = [term for term in terms if term]
    assert len({term.fencing_token for term in seen}) > 10
    assert all(term.identity == str(term.fencing_token) * 20 for term in seen)


def test_a_damaged_page_is_nobodys_leadership() -> None:
    """A writer killed half-way, or anything else: readers neither spin nor raise."""
    shared_trust = SharedTrust.create()
    shared_trust.publish(trust())
    shared_trust._memory[24:] = b"\xff" * (len(shared_trust._memory) - 24)
    assert shared_trust.term() is None
    assert shared_trust.leader() == ""


def test_a_file_that_can_not_be_made_is_told_of_and_removed() -> None:
    """A worker that is refused leaves nothing behind."""
    code = (
        "import resource\n"
        "from celery_leader.leadership.shared_trust import SharedTrust\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "SharedTrust.create(in_file=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        _, said = process.communicate(timeout=30)
    assert "ConfigurationError" in said
    assert "Set TMPDIR" in said
    places = (Path("/dev/shm"), Path(tempfile.gettempdir()))  # where shared trusts are kept
    assert [path for place in places for path in place.glob(f".celery-leader-trust-{process.pid}-*")] == []


def test_a_file_has_all_its_room_from_the_start() -> None:
    """A file system that is full refuses it; a hole that can't be filled later would end the process by SIGBUS."""
    shared_trust = SharedTrust.create(in_file=True)
    try:
        assert shared_trust.path
        stat = shared_trust.path.stat()
        assert stat.st_blocks * 512 >= stat.st_size > 0
    finally:
        shared_trust.unlink()


def test_a_system_that_can_not_reserve_room_gives_the_file_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as macOS: memory can't be mapped beyond a file's end."""
    monkeypatch.delattr(os, "posix_fallocate")
    shared_trust = SharedTrust.create(in_file=True)
    try:
        shared_trust.publish(trust())
        assert shared_trust.is_leader()
        assert shared_trust.path
        assert shared_trust.path.stat().st_size == len(shared_trust._memory)
    finally:
        shared_trust.unlink()


def test_a_full_file_system_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cure, and nothing is left there."""
    before = set(Path("/dev/shm").glob(".celery-leader-trust-*"))
    monkeypatch.setattr(os, "posix_fallocate", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(ConfigurationError, match="No space left on device.*TMPDIR"):
        SharedTrust.create(in_file=True)
    assert set(Path("/dev/shm").glob(".celery-leader-trust-*")) == before


def test_the_longest_names_are_read_whole() -> None:
    """What a record may name its holder, and a configuration an election and a candidate."""
    shared_trust = SharedTrust.create()
    for character in ("x", "𝄞", "\x1b", '"', "\\"):
        name = character * LONGEST_NAME
        shared_trust.publish(trust(identity=name, token=2**53 - 1))
        shared_trust.publish_leader(name)
        assert shared_trust.term() == Term("default", name, 2**53 - 1)
        assert shared_trust.leader() == name
