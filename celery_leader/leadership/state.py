"""What application code asks: do I lead, in which term, and who does?"""

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
from celery_leader.leadership.cell import Cell
from celery_leader.settings import DEFAULT_ELECTION

logger = logging.getLogger(__name__)

#: Where spawned pool children find the cells of their worker: JSON, election to file.
CELLS_VARIABLE = "CELERY_LEADER_CELLS"

_cells: dict[str, Cell] | None = None
_term_of_task: ContextVar[Term | None] = ContextVar("celery_leader_term", default=None)


def is_leader(election: str = DEFAULT_ELECTION) -> bool:
    """Return whether this worker leads *election* at this very moment.

    Decided by the clock at each call, without I/O (about a microsecond): it turns False by itself when the lease was
    not renewed in time. True in every process and thread of the leading worker, False in all others and in
    processes that take part in no election.

    Raises:
        ConfigurationError: This worker takes part in elections, but not in one of that name.
    """
    cell = _cell(election)
    return cell is not None and cell.is_leader()


def current_term(election: str = DEFAULT_ELECTION) -> Term | None:
    """Return the term in which this worker leads *election*, None when it does not lead.

    Inside a ``@leader_only`` task of that election it is the term in which the task was started, even when that
    has ended since.

    Raises:
        ConfigurationError: This worker takes part in elections, but not in one of that name.
    """
    started_in = _term_of_task.get()
    if started_in is not None and started_in.election == election:
        return started_in
    cell = _cell(election)
    return cell.term() if cell else None


def fencing_token(election: str = DEFAULT_ELECTION) -> int | None:
    """Return the fencing token of :func:`current_term`, None when there is no such term.

    Raises:
        ConfigurationError: This worker takes part in elections, but not in one of that name.
    """
    term = current_term(election)
    return term.fencing_token if term else None


def get_leader(election: str = DEFAULT_ELECTION) -> str:
    """Return the identity of the leader that this worker last observed, without I/O.

    It may be up to two retry periods old; empty when nobody leads, or when this process takes part in no
    election (``celery -A proj leader status`` reads the store).

    Raises:
        ConfigurationError: This worker takes part in elections, but not in one of that name.
    """
    cell = _cell(election)
    return cell.leader() if cell else ""


def accepts_work(election: str) -> bool:
    """Return whether work that is reserved for the leader of *election* may begin here at this moment.

    A worker that takes no part in that election is a follower.
    """
    cell = _known_cells().get(election)
    return cell is not None and cell.accepts_work()


@contextmanager
def in_term(term: Term) -> Iterator[None]:
    """Let :func:`current_term` be *term* in here, whatever happens to the leadership meanwhile."""
    reset = _term_of_task.set(term)
    try:
        yield
    finally:
        _term_of_task.reset(reset)


def takes_part() -> bool:
    """Return whether this process, or the worker that it belongs to, takes part in any election."""
    return bool(_known_cells())


def register(cells: Mapping[str, Cell]) -> None:
    """Let this process, and those that it forks or spawns, answer from *cells*."""
    global _cells  # noqa: PLW0603  # one process has one belief
    _cells = {**(_cells or {}), **cells}
    paths = {election: str(cell.path) for election, cell in _cells.items() if cell.path}
    os.environ.pop(CELLS_VARIABLE, None)  # it may name those of a worker that started this one
    if paths:
        os.environ[CELLS_VARIABLE] = json.dumps(paths)


def take_no_part() -> None:
    """Let this process, and those that it forks or spawns, take part in no election, whoever started it."""
    global _cells  # noqa: PLW0603
    _cells = {}
    os.environ.pop(CELLS_VARIABLE, None)


def unregister(cells: Mapping[str, Cell]) -> None:
    """Forget *cells*."""
    global _cells  # noqa: PLW0603
    _cells = {election: cell for election, cell in (_cells or {}).items() if cells.get(election) is not cell}
    if any(cell.path for cell in cells.values()):
        os.environ.pop(CELLS_VARIABLE, None)


@contextmanager
def registered(cells: Mapping[str, Cell]) -> Iterator[None]:
    """Let this process answer from nothing but *cells* for a while."""
    global _cells  # noqa: PLW0603
    before, _cells = _cells, dict(cells)
    try:
        yield
    finally:
        _cells = before


def _cell(election: str) -> Cell | None:
    cells = _known_cells()
    cell = cells.get(election)
    if cell is None and cells:
        raise ConfigurationError(
            f"This worker takes part in no election {election!r}, only in {', '.join(sorted(cells))}. "
            "Name it in leader_elections."
        )
    return cell


def _known_cells() -> dict[str, Cell]:
    global _cells  # noqa: PLW0603
    if _cells is None:
        _cells = _inherited_cells()
    return _cells


def _inherited_cells() -> dict[str, Cell]:
    """Return the cells of the worker that spawned this process, none when none did."""
    named = os.environ.get(CELLS_VARIABLE, "{}")
    try:
        return {election: Cell.attach(Path(path)) for election, path in dict(json.loads(named)).items()}
    except OSError:  # a worker that is gone: nobody leads here
        return {}
    except (TypeError, ValueError, RecursionError):
        logger.error(  # noqa: TRY400  # the message says it all
            "The environment variable %s must name a worker's cells, got %s: this process takes part in no election",
            CELLS_VARIABLE, shown(named),
        )  # fmt: skip
        return {}
