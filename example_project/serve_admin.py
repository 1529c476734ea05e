"""Serve the example's Django admin, with two workers that elect a leader. `make admin` runs it; Ctrl-C ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fleet import HERE, Fleet

DATA = Path(os.environ.get("EXAMPLE_DATA") or HERE / "var")
HOST = "127.0.0.1"  # everybody knows the password, so only this machine may reach the admin
PORT = os.environ.get("PORT", "8000")
USER = PASSWORD = "demo"


def main() -> int:
    os.environ["EXAMPLE_DATA"] = str(DATA)
    try:
        with Fleet(DATA) as fleet:
            fleet.manage("migrate", "-v0")
            os.environ["DJANGO_SUPERUSER_PASSWORD"] = PASSWORD
            fleet.manage("createsuperuser", "--no-input", "--username", USER, "--email", "demo@example.com", "-v0")
            fleet.start("w1", "w2")
            print(
                f"The admin is at http://{HOST}:{PORT}/admin/celery_leader/election/\n"
                f"User {USER}, password {PASSWORD}.\n"
                "Two workers run; stop or kill one and reload the page. Ctrl-C ends everything.",
                flush=True,
            )
            server = [sys.executable, "manage.py", "runserver", "--noreload", f"{HOST}:{PORT}"]
            return subprocess.run(server, cwd=HERE, env=fleet.environment, check=False).returncode
    except KeyboardInterrupt:
        print("\nThe admin and the workers were stopped.")
        return 0


if __name__ == "__main__":
    sys.exit(main())
