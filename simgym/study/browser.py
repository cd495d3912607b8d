"""A browser as far as scripted participants need one: connections that stay open, cookies, forms, no redirects.

A general HTTP client takes longer over a request than the study's server over its answer, and scripted participants
share one process: what they take would be measured as the server's. Answers must have a length, as all of a study's
pages have. Not for other servers: no chunks, no compression, no redirects, one host.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

_LONGEST = 120.0
"""Seconds for a request and its answer."""
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    """HTTP status."""
    headers: Mapping[str, str]
    """Values by name in lower case; of a name that comes twice the last."""
    text: str
    """The body."""


class Browser:
    """One participant's browser: its cookies, and as many connections as it has requests at once."""

    def __init__(self, base_url: str) -> None:
        """Remember the address; nothing is opened yet."""
        parts = urlsplit(base_url)
        self._host, self._secure = parts.hostname or "localhost", parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._common = f"Host: {parts.netloc}\r\nUser-Agent: simgym scripted participant\r\n"
        self._idle: list[_Connection] = []
        self._cookies: dict[str, str] = {}

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(self, *error: object) -> None:
        for _, writer in self._idle:
            writer.close()

    async def get(self, path: str) -> Answer:
        """Fetch a page."""
        return await self._ask(f"GET {path} HTTP/1.1\r\n", b"")

    async def post(self, path: str, fields: Mapping[str, str]) -> Answer:
        """Send a form."""
        body = urlencode(fields).encode()
        kind = "Content-Type: application/x-www-form-urlencoded\r\n"
        return await self._ask(f"POST {path} HTTP/1.1\r\n{kind}Content-Length: {len(body)}\r\n", body)

    async def _ask(self, head: str, body: bytes) -> Answer:
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        request = f"{head}{self._common}{f'Cookie: {cookies}' if cookies else 'Accept: */*'}\r\n\r\n".encode() + body
        async with asyncio.timeout(_LONGEST):
            reader, writer = await self._connection()
            try:
                writer.write(request)
                await writer.drain()
                answer = await self._read(reader)
            except BaseException:
                writer.close()
                raise
        self._idle.append((reader, writer))
        return answer

    async def _connection(self) -> _Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(
            self._host, self._port, ssl=ssl.create_default_context() if self._secure else None
        )

    async def _read(self, reader: asyncio.StreamReader) -> Answer:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
            if name.lower() == "set-cookie":
                name, _, value = value.strip().partition(";")[0].partition("=")
                self._cookies[name] = value
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body.decode())
