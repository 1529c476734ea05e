"""The questions of application code: do I lead, in which term, and who leads?"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from celery_leader.election import Term
from celery_leader.election.limits import shown
from celery_leader.exceptions import ConfigurationError
from celery_leader.leadership.shared_trust import SharedTrust
from celery_leader.settings import DEFAULT_ELECTION

logger = logging.getLogger(__name__)

#: Where spawned pool children find the shared trusts of their worker: JSON, election to file.
TRUSTS_VARIABLE = "CELERY_LEADER_TRUSTS"

_trusts: dict[str, SharedTrust] | None = None
_term_of_task: ContextVar[Term | None] = ContextVar("celery_leader_term", default=None)


def is_leader(election: str = DEFAULT_ELECTION) -> bool:
    """Return whether this worker leads *election* at this very moment.

    The clock decides at each call, without I/O (about a microsecond): the answer turns False by itself when the lease
    was not renewed in time. It is True in every process and thread of the leading worker, and False in all others and
    in processes that take part in no election.

    Raises:
        ConfigurationError: This worker takes part in elections, but not in one of that name.
    """
    shared_trust = _shared_trust(election)
    return shared_trust is not None and shared_trust.is_leader()


def current_term(election: str = DEFAULT_ELECTION) -> Term | None:
    """Return the term in which this worker leads *election*, None when it does not lead.

    Inside a ``@leader_only`` task of that election it is the term in which the task started, even when that term has
    ended since.

    Raises:
        ConfigurationError: This worker takes part in elections, but not in one of that name.
    """
    started_in = _term_of_task.get()
    if started_in is not None and started_in.election == election:
        return started_in
    shared_trust = _shared_trust(election)
    return shared_trust.term() if shared_trust else None


def fencing_token(election: str = DEFAULT_ELECTION) -> int | None:
    """Return the fencing token of :func:`current_term`, None when there is no such term.

    Raises:
        ConfigurationError: This worker takes part in elections, but not in one of that name.
    """
    term = current_term(election)
    return term.fencing_token if term else None


def get_leader(election: str = DEFAULT_ELECTION) -> str:
    """Return the identity of the leader that this worker last observed, without I/O.

    The answer may be two retry periods old. It is empty when nobody leads, and when this process takes part in no
    election (``celery -A proj leader status`` reads the store).

    Raises:
        ConfigurationError: This worker takes part in elections, but not in one of that name.
    """
    shared_trust = _shared_trust(election)
    return shared_trust.leader() if shared_trust else ""


def accepts_work(election: str) -> bool:
    """Return whether work for the leader of *election* may begin here at this moment.

    A worker that takes no part in that election is a follower.
    """
    shared_trust = _known_trusts().get(election)
    return shared_trust is not None and shared_trust.accepts_work()


def takes_part() -> bool:
    """Return whether this process, or the worker that it belongs to, takes part in any election."""
    return bool(_known_trusts())


@contextmanager
def in_term(term: Term) -> Iterator[None]:
    """Let :func:`current_term` be *term* inside the block, whatever happens to the leadership meanwhile."""
    reset = _term_of_task.set(term)
    try:
        yield
    finally:
        _term_of_task.reset(reset)


def register(trusts: Mapping[str, SharedTrust]) -> None:
    """Let this process, and those that it forks or spawns, answer from *trusts* too."""
    _answer_from({**(_trusts or {}), **trusts})


def unregister(trusts: Mapping[str, SharedTrust]) -> None:
    """Forget *trusts*."""
    known = _trusts or {}
    _answer_from({election: trust for election, trust in known.items() if trusts.get(election) is not trust})


def take_no_part() -> None:
    """Let this process, and those that it forks or spawns, take part in no election, whoever started it."""
    _answer_from({})


@contextmanager
def registered(trusts: Mapping[str, SharedTrust]) -> Iterator[None]:
    """Let this process answer only from *trusts* inside the block."""
    global _trusts  # noqa: PLW0603
    before, _trusts = _trusts, dict(trusts)
    try:
        yield
    finally:
        _trusts = before


def _answer_from(trusts: dict[str, SharedTrust]) -> None:
    global _trusts  # noqa: PLW0603  # one process has one belief
    _trusts = trusts
    os.environ.pop(TRUSTS_VARIABLE, None)  # it may name the trusts of a worker that started this one
    if paths := {election: str(trust.path) for election, trust in trusts.items() if trust.path}:
        os.environ[TRUSTS_VARIABLE] = json.dumps(paths)


def _shared_trust(election: str) -> SharedTrust | None:
    trusts = _known_trusts()
    shared_trust = trusts.get(election)
    if shared_trust is None and trusts:
        raise ConfigurationError(
            f"This worker takes part in no election {election!r}, only in {', '.join(sorted(trusts))}. "
            "Name it in leader_elections."
        )
    return shared_trust


def _known_trusts() -> dict[str, SharedTrust]:
    global _trusts  # noqa: PLW0603
    if _trusts is None:
        _trusts = _inherited_trusts()
    return _trusts


def _inherited_trusts() -> dict[str, SharedTrust]:
    """Return the shared trusts of the worker that spawned this process, none when none did."""
    named = os.environ.get(TRUSTS_VARIABLE, "{}")
    try:
        return {election: SharedTrust.attach(Path(path)) for election, path in dict(json.loads(named)).items()}
    except OSError:  # that worker has ended: nobody leads here
        return {}
    except (TypeError, ValueError, RecursionError):
        logger.error(  # noqa: TRY400  # the message says it all
            "The environment variable %s must name a worker's shared trusts, got %s. "
            "This process takes part in no election",
            TRUSTS_VARIABLE, shown(named),
        )  # fmt: skip
        return {}
