"""The settings of our own connection to an alias: the application's, but autocommit, read committed and timeouts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.utils import load_backend

from celery_leader.backends.urls import described
from celery_leader.election.limits import shown
from celery_leader.exceptions import ConfigurationError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

#: The server gives up after this share of a call's time, before the caller does, so that its error tells why.
_SERVER_SHARE = 0.8


def own_settings(alias: str, *, timeout: float, server_timeouts: bool) -> dict[str, Any]:
    """Return the settings of our own connection to *alias*, made from the alias's settings of this moment.

    Args:
        alias: A key of ``DATABASES``.
        timeout: The longest (seconds) that one call may take.
        server_timeouts: Whether to set timeouts of the server. Some connection poolers refuse them.

    Raises:
        ConfigurationError: There is no such alias, or it is an SQLite database in memory.
    """
    values = alias_settings(alias)
    wrapper_class = load_backend(values["ENGINE"]).DatabaseWrapper
    if wrapper_class.vendor not in _ADAPTERS:
        raise ConfigurationError(
            f"django-db://{alias} is a database of the kind {wrapper_class.display_name}. "
            "Elections can be kept in PostgreSQL, MySQL, MariaDB and SQLite."
        )
    if is_in_memory(values):
        raise ConfigurationError(
            f"django-db://{alias} is an SQLite database in memory, which no other process can see. Give the alias "
            "a file as NAME, or use memory:// in tests."
        )
    options = _ADAPTERS[wrapper_class.vendor](dict(values.get("OPTIONS") or {}), timeout, server_timeouts)
    return {**values, "AUTOCOMMIT": True, "OPTIONS": options, "TIME_ZONE": None}


def alias_of(url: str) -> str:
    """Return the database alias that *url* names, ``django-db://alias``."""
    return url.partition("://")[2].rstrip("/") or "default"


def alias_settings(alias: str) -> dict[str, Any]:
    """Return the settings of *alias* in ``DATABASES``.

    Raises:
        ConfigurationError: There are none, or Django can't use them.
    """
    try:
        return connections.settings[alias]  # type: ignore[no-any-return]
    except KeyError:
        known = ", ".join(sorted(connections.settings))
        named = shown(described(f"django-db://{alias}"))  # somebody may take it for a URL with a password
        raise ConfigurationError(
            f"{named} names a database alias that DATABASES does not have. It has: {known}."
        ) from None
    except ImproperlyConfigured as error:
        raise ConfigurationError(f"django-db://{alias} can't be used: {error}") from error


def is_in_memory(values: dict[str, Any]) -> bool:
    """Return whether *values* are the settings of an SQLite database in memory."""
    backend = load_backend(values["ENGINE"])
    return backend.DatabaseWrapper.vendor == "sqlite" and bool(backend.DatabaseWrapper(values, "").is_in_memory_db())


def is_postgresql(alias: str) -> bool:
    """Return whether *alias* is a PostgreSQL database that can be used."""
    try:
        wrapper_class = load_backend(alias_settings(alias)["ENGINE"]).DatabaseWrapper
    except (ConfigurationError, ImproperlyConfigured, ImportError):
        return False
    return bool(wrapper_class.vendor == "postgresql")


def session_statement(wrapper: BaseDatabaseWrapper, timeout: float) -> str:
    """Return the statement that sets the timeouts that can't be set while connecting; empty when there are none.

    A process that stops in the middle of a takeover must not keep its row locked for ever. MariaDB limits idle
    transactions, MySQL idle sessions (the next call connects again).
    """
    if wrapper.vendor != "mysql":
        return ""
    seconds = max(1, int(timeout * _SERVER_SHARE))
    idle = "idle_transaction_timeout" if getattr(wrapper, "mysql_is_mariadb", False) else "wait_timeout"
    return (
        f"SET SESSION innodb_lock_wait_timeout = {seconds}, SESSION lock_wait_timeout = {seconds}, "
        f"SESSION {idle} = {max(1, math.ceil(timeout))}"
    )


def _postgresql(options: dict[str, Any], timeout: float, server_timeouts: bool) -> dict[str, Any]:
    options.pop("pool", None)  # tasks may have taken all its connections
    options.pop("isolation_level", None)
    milliseconds = max(2, int(timeout * 1000 * _SERVER_SHARE))
    options.update(connect_timeout=max(1, int(timeout)), tcp_user_timeout=milliseconds)
    if server_timeouts:
        own = {
            "lock_timeout": milliseconds * 7 // 8,  # the first to end, so that the error names a lock
            "statement_timeout": milliseconds,
            "idle_in_transaction_session_timeout": max(1, int(timeout * 1000)),
            "default_transaction_isolation": "read\\ committed",
        }
        words = [f"-c {name}={value}" for name, value in own.items()]
        options["options"] = " ".join([options.get("options", ""), *words]).strip()
    return options


def _mysql(options: dict[str, Any], timeout: float, server_timeouts: bool) -> dict[str, Any]:
    seconds = max(1, math.ceil(timeout))
    limits = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds)
    return {**options, **limits, "isolation_level": "read committed"}


def _sqlite(options: dict[str, Any], timeout: float, server_timeouts: bool) -> dict[str, Any]:
    # A transaction that reads before it writes fails if another has written meanwhile; an immediate one locks at once.
    return {**options, "timeout": timeout * _SERVER_SHARE, "transaction_mode": "IMMEDIATE"}


_ADAPTERS = {"postgresql": _postgresql, "mysql": _mysql, "sqlite": _sqlite}
