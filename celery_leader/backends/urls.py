"""From a URL to a backend; each kind is imported only when it is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from celery_leader.backends.base import Backend
from celery_leader.exceptions import ConfigurationError

# scheme -> (factory, the extra that brings what it imports). A factory is called as
# factory(url, prefix=..., timeout=..., options=...).
_FACTORIES = {
    "memory": ("celery_leader.backends.memory:open_memory", ""),
    "redis": ("celery_leader.backends.redis:open_redis", "redis"),
    "rediss": ("celery_leader.backends.redis:open_redis", "redis"),
    "redis+cluster": ("celery_leader.backends.redis:open_redis", "redis"),
    "rediss+cluster": ("celery_leader.backends.redis:open_redis", "redis"),
    "sentinel": ("celery_leader.backends.redis:open_redis", "redis"),
    "django-db": ("celery_leader.django:open_django", "django"),
}


def open_backend(
    url: str, *, prefix: str = "", timeout: float = 5.0, options: Mapping[str, Any] | None = None
) -> Backend:
    """Return the backend that *url* names. No connection is opened.

    Args:
        url: ``redis://…``, ``rediss://…``, ``sentinel://host:port;sentinel://host:port``,
            ``redis+cluster://host:port;host:port``, ``rediss+cluster://…``, ``django-db://alias`` or ``memory://``.
        prefix: Put before the names of keys or rows, so that two deployments can share one store.
        timeout: The longest (seconds) that one call may take; half the renew deadline at most.
        options: Passed to the store's client.

    Raises:
        ConfigurationError: The URL's scheme is unknown, the URL is malformed, or what it needs is not installed.
    """
    scheme, separator, _ = str(url).partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _FACTORIES:
        known = ", ".join(f"{name}://" for name in _FACTORIES)
        raise ConfigurationError(
            f"leader_backend names no known store: {described(url)!r}. Use one of {known}; for a "
            "database of Django's django-db://<alias>."
        )
    path, extra = _FACTORIES[scheme]
    factory = _load(path, scheme, extra)
    return cast(Backend, factory(url, prefix=prefix, timeout=timeout, options=dict(options or {})))


def _load(path: str, scheme: str, extra: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("celery_leader"):
            raise
        raise ConfigurationError(
            f"leader_backend {scheme}:// needs the module {error.name!r}, which is not installed. "
            f"Run: pip install 'celery-leader[{extra}]'"
        ) from error


def described(url: object) -> str:
    """Return *url* as logs and errors may show it: scheme, hosts and path, without users, passwords and queries.

    Of a URL in which nobody can tell where a password ends only the scheme is left.
    """
    scheme, separator, rest = str(url).partition("://")
    if not re.fullmatch(r"[\w.+-]{0,30}", scheme):
        return "…"
    user, _, places = rest.rpartition("@")
    if set("/?#[];") & set(user):
        return f"{scheme}{separator}…"
    return scheme + separator + re.sub(r"[?#].*", "?…", places, flags=re.DOTALL)
