"""A PostgreSQL server of one's own, in a temporary folder, for tests and measurements.

PostgreSQL refuses to run as root, so root starts it as the user `postgres` that its packages make. It listens on
loopback alone, and is gone with the folder when the context ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from simgym.errors import ConfigurationError


def find_postgresql() -> Path | None:
    """The folder with `initdb` and `pg_ctl`; None if PostgreSQL is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).parent)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


@contextlib.contextmanager
def temporary_postgresql() -> Iterator[str]:
    """The address of an empty database, `postgresql://...`.

    Raises:
        ConfigurationError: PostgreSQL is not installed.
    """
    programs = find_postgresql()
    if programs is None:
        raise ConfigurationError("PostgreSQL is not installed. On Debian: apt-get install postgresql.")
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user, user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def run(*command: str | Path) -> None:
            subprocess.run(
                list(map(str, command)), check=True, cwd=folder, user=user, capture_output=True, env={"LC_ALL": "C"}
            )

        data = folder / "data"
        run(programs / "initdb", "-D", data, "-U", "simgym", "--auth=trust", "-E", "UTF8")
        options = f"-p {port} -h 127.0.0.1 -k {folder}"
        run(programs / "pg_ctl", "-D", data, "-w", "-o", options, "-l", folder / "log", "start")
        try:
            yield f"postgresql://simgym@127.0.0.1:{port}/postgres"
        finally:
            run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
