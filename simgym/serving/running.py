"""A server in this process until it is stopped, on loopback unless there is a token."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from simgym.errors import ConfigurationError
from simgym.extras import require_extra

MIN_TOKEN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """Where a server listens, and whom it answers."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    token: str | None = None
    """What callers must send as their API key, 16 characters or more; needed for other addresses than loopback."""

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise ConfigurationError(f"The token has {len(self.token)} characters, expected {MIN_TOKEN} or more.")
        if self.token is None and not is_loopback(self.host):
            raise ConfigurationError(
                f"Whoever reaches {self.host} could use the models. Listen on 127.0.0.1, or set a token in the "
                "environment variable SIMGYM_SERVE_TOKEN."
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(app: Any, settings: ListenSettings) -> None:
    """Serve an ASGI application until interrupted.

    Raises:
        ConfigurationError: the port is taken.
        MissingDependency: the extra `serve` is not installed.
    """
    require_extra("serve", "A server")
    import uvicorn

    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            place = f"{settings.host}:{settings.port}"
            raise ConfigurationError(f"Cannot listen on {place}: {error.strerror}. Choose another port.") from error
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,  # an answer that hangs keeps nobody waiting
    )
