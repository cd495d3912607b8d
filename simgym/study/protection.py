"""What stands between the app and the network: headers, sizes, rates, tokens.

Pages run no inline script, load nothing from elsewhere and are never cached. A form carries a token that is derived
from the participant's secret cookie, which a foreign page can neither read nor compute; the cookie is HttpOnly and
SameSite as well. Bodies are counted as they arrive, before the app sees anything, so a false length does not help.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("simgym.study")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of every answer."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send our own forms with the origin "null"
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""On every answer."""


def form_token(secret: str) -> str:
    """The token of all forms of the participant with that secret."""
    return hmac.new(secret.encode(errors="replace"), b"simgym study form", hashlib.sha256).hexdigest()


def same_text(first: str, second: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(first.encode(errors="replace"), second.encode(errors="replace"))


def foreign(headers: Headers) -> bool:
    """Whether a request comes from a page of another site, as far as the browser says."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") in ("cross-site", "same-site")
    try:
        return urlsplit(origin).netloc != headers.get("host", "")
    except ValueError:  # `http://[evil`: no browser says that of a page of ours
        return True


class Rates:
    """How often somebody may do something: so many at once, and as many again in every minute.

    Keeps one number per key: the time at which everything is forgiven, by a clock that nobody sets.
    """

    _most = 20_000

    def __init__(self) -> None:
        self._forgiven: dict[tuple[str, str], float] = {}

    def hit(self, what: str, whose: str, per_minute: int) -> bool:
        """Count one more; False if that is one too many, which then does not count."""
        now = time.monotonic()
        due = max(self._forgiven.get((what, whose), now), now)
        if due - now > 60 - 60 / per_minute + 1e-9:
            return False
        if len(self._forgiven) >= self._most:
            self._forgiven = {key: at for key, at in self._forgiven.items() if at > now}
        self._forgiven[what, whose] = due + 60 / per_minute
        return True


class Guard:
    """ASGI middleware: headers on every answer, no body larger than `max_body` bytes or slower than `body_seconds`."""

    def __init__(
        self,
        app: ASGIApp,
        max_body: int,
        apology: str,
        body_seconds: float = 60.0,
        headers: Mapping[str, str] = HEADERS,
    ) -> None:
        self.app, self.max_body, self.apology, self.body_seconds = app, max_body, apology, body_seconds
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def guarded_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        async def refuse(status: int, text: str) -> None:
            await PlainTextResponse(text, status, {"Connection": "close"})(scope, receive, guarded_send)

        try:
            async with asyncio.timeout(self.body_seconds):
                body = None if self._large(scope) else await self._read(receive)
        except TimeoutError:
            await refuse(408, "The request did not arrive in time.")
            return
        except _BrokenOff:  # half a form is no form: what is sent again shall not meet it
            return
        if body is None:
            await refuse(413, "The request is larger than this study accepts.")
            return
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        try:
            await self.app(scope, replay, guarded_send)
        except Exception:  # the boundary: logged once, and answered in words
            log.exception("A request could not be answered.")
            if begun:
                raise
            await HTMLResponse(self.apology, 500)(scope, replay, guarded_send)

    def _large(self, scope: Scope) -> bool:
        """Whether the request itself says that it is too large."""
        length = Headers(scope=scope).get("content-length", "0")
        return not (length.isascii() and length.isdigit()) or len(length) > 12 or int(length) > self.max_body

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if it is too large; raises `_BrokenOff` if its end never came."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _BrokenOff
            body += bytes(message.get("body", b""))
            if len(body) > self.max_body:
                return None
            if not message.get("more_body", False):
                return body


class _BrokenOff(Exception):
    """The connection was closed within a body."""
