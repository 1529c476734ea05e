"""Install the Debian packages of the servers that the tests start, if they are missing and we may.

    python3 scripts/services.py

The tests start the servers themselves, on ports of their own; the packages must not start any as a service. Who is not
root is told what to install.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "redis-server": "/usr/bin/redis-server",
    "postgresql": "/usr/lib/postgresql/*/bin/postgres",
    "pgbouncer": "/usr/sbin/pgbouncer",
    "mariadb-server": "/usr/sbin/mariadbd",
    "rabbitmq-server": "/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins",
    "libfaketime": "/usr/lib/*/faketime/libfaketime.so.1",  # steps a server's clock
}
POLICY = Path("/usr/sbin/policy-rc.d")


def missing() -> list[str]:
    """The packages whose program is not there."""
    return [package for package, program in PACKAGES.items() if not list(Path("/").glob(program.lstrip("/")))]


def install(packages: list[str]) -> None:
    """Install *packages* by apt-get, with a policy that forbids to start what is installed (exit status 101)."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Wait for another apt-get instead of failing on its lock.
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run([*apt, *command], check=True, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    finally:
        if ours:
            POLICY.unlink()


def main() -> None:
    """Have all servers installed, or end with what to do."""
    wanted = missing()
    if not wanted:
        return
    command = f"apt-get install {' '.join(wanted)}"
    if os.geteuid() != 0:
        sys.exit(f"services: the tests need servers that are not installed, and only root can: sudo {command}")
    print(f"services: {command}", file=sys.stderr)
    try:
        install(wanted)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"services: could not install {' '.join(wanted)}: {error}")
    if still := missing():
        sys.exit(f"services: installed, but where is it? {' '.join(PACKAGES[package] for package in still)}")


if __name__ == "__main__":
    main()
