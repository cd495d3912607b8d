"""A study as a running server: in this process until it is stopped, or in a process of its own for simulations."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from simgym.assistants.base import Assistant
from simgym.errors import ConfigurationError
from simgym.extras import optional_import
from simgym.study.config import AssistantSpec, Study
from simgym.study.replies import load_assistant
from simgym.study.scripted import ScriptedAssistant


def assistants_of(study: Study, kind: str) -> dict[str, Assistant]:
    """One assistant a name: as the study says; for a dry run the default model; for a synthetic study scripted."""
    if kind == "synthetic":
        return {name: ScriptedAssistant(number) for number, name in enumerate(sorted(study.assistants))}
    if kind == "dry_run":
        from simgym.language_models.weights import DEFAULT_MODEL

        small = AssistantSpec(model=DEFAULT_MODEL, max_new_tokens=96)
        return {
            name: load_assistant(small.model_copy(update={"system_prompt": spec.system_prompt}))
            for name, spec in study.assistants.items()
        }
    return {name: load_assistant(spec) for name, spec in study.assistants.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where a study listens, and whom it believes."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    admin_token: str | None = None
    """Password of `/admin`; None: there is no `/admin`."""
    secure_cookies: bool = False
    """Cookies over HTTPS only."""
    proxies: str | None = None
    """Addresses or networks (comma-separated, `*` for any) whose headers about a visitor's address and scheme are
    trusted; None: nobody's."""
    connections: int | None = None
    """Largest number of connections; None: as many as the process may open files, less a hundred."""


def serve(study: Study, database: str, *, kind: str = "real", settings: ServerSettings | None = None) -> None:
    """Serve a study with the database at a URL until interrupted.

    Raises:
        ConfigurationError: the database belongs to something else, or the port is taken.
    """
    from simgym.study.app import create_app
    from simgym.study.connections import Door, protocol, raise_file_limit
    from simgym.study.logs import log_config
    from simgym.study.store import Store

    uvicorn = optional_import("uvicorn", "study")
    settings = settings or ServerSettings()
    # before the server starts, so that a wrong database is a sentence and no traceback; a pool belongs to its event
    # loop, so the connections of this store are given back
    asyncio.run(_begin(Store(database), study, kind))
    app = create_app(
        study,
        Store(database),
        assistants_of(study, kind),
        kind=kind,
        admin_token=settings.admin_token,
        secure_cookies=settings.secure_cookies,
    )
    _check_port(settings.host, settings.port)
    # SQLite's connections are threads; at Python's 5 ms each of their answers can wait that long for the event loop
    sys.setswitchinterval(0.0005)
    config = uvicorn.Config(
        app,
        http=protocol(Door(min(raise_file_limit(), settings.connections or sys.maxsize))),
        log_config=log_config(),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,  # addresses of participants are nobody's business
        proxy_headers=settings.proxies is not None,
        forwarded_allow_ips=settings.proxies or "",
        server_header=False,
        timeout_keep_alive=75,  # people read for a minute; a form that meets a closing connection is lost
        timeout_graceful_shutdown=1,  # forms take less
    )

    class Server(uvicorn.Server):  # type: ignore[misc, name-defined]
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.replies.stop()  # before uvicorn waits for the pages that wait for replies
            await super().shutdown(sockets)

    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):  # again, once the server has come to its end
        server.run()
    if not server.started:
        raise SystemExit(3)  # uvicorn has said why


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port."
            ) from error


async def _begin(store: Any, study: Study, kind: str) -> None:
    try:
        await store.begin(name=study.name, kind=kind, settings=study.model_dump(mode="json"), study_hash=study.hash)
    finally:
        await store.close()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(study_file: Path, database: str, *arguments: str, port: int | None = None) -> Iterator[tuple[str, object]]:
    """A server in a process of its own: its address and the process; it is stopped at the end.

    Raises:
        RuntimeError: it does not answer within a minute.
    """
    port = port or free_port()
    command = [sys.executable, "-c", "from simgym.cli.main import main; main()", "study", "serve", str(study_file)]
    command += ["--database", database, "--port", str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _await(address, process)
        yield address, process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(address: str, process: Any) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The study's server stopped: {process.stderr.read()[-2000:]}")
        try:
            with urlopen(f"{address}/static/study.css", timeout=5):  # noqa: S310  # always http on loopback
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("The study's server did not answer within a minute.")
