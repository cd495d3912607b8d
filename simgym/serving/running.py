"""A server in this process until it is stopped, on loopback unless there is a token."""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

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


class Guard:
    """An ASGI application before another one, for requests and web sockets alike: strangers do not get further.

    With a token, callers must send it. Without one the server is on loopback, where web pages that a browser on this
    machine shows reach it, too: by a name of theirs that leads here, or by a web socket, which no browser holds back.
    So the host must be a loopback address, and a page that asks must be from one.
    """

    def __init__(self, app: Any, token: str | None) -> None:
        """Take the application, and what callers must send as `Authorization: Bearer TOKEN`; None: no token."""
        self._app = app
        self._token = token

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, object]], Awaitable[None]],
    ) -> None:
        """Serve one connection; a refused one is a 401 or 403, or a web socket that is closed before it opens."""
        refusal = self._refusal(dict(scope["headers"])) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, code, sentence = refusal
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        error = {"message": sentence, "type": "invalid_request_error", "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, headers: Mapping[bytes, bytes]) -> tuple[int, str, str] | None:
        if self._token is not None:
            sent = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip()
            right = hmac.compare_digest(sent, self._token.encode())
            return None if right else (401, "invalid_api_key", "The API key is missing or wrong.")
        addresses = [f"//{headers.get(b'host', b'').decode('latin-1')}"]
        if b"origin" in headers:
            addresses.append(headers[b"origin"].decode("latin-1"))
        if all(is_loopback(_host_of(address)) for address in addresses):
            return None
        return 403, "foreign_host", "Without a token, only programs and pages of this machine are answered."


def _host_of(address: str) -> str:
    """The host that an address names; empty if it names none, or is none (`http://[evil`)."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def check_port(settings: ListenSettings) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        ConfigurationError: the port is taken, or there is no such address.
    """
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            place = f"{settings.host}:{settings.port}"
            raise ConfigurationError(f"Cannot listen on {place}: {error.strerror}. Choose another port.") from error


def serve(app: object, settings: ListenSettings) -> None:
    """Serve an ASGI application behind a `Guard` until interrupted.

    Raises:
        ConfigurationError: the port is taken.
        MissingDependency: the extra `serve` is not installed.
    """
    require_extra("serve", "A server")
    import uvicorn

    check_port(settings)
    uvicorn.run(
        Guard(app, settings.token),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,  # an answer that hangs keeps nobody waiting
    )
