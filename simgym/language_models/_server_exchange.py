"""One request to a server and its whole answer, within bounds of time and size.

The server is not trusted: an answer that drips, never ends, unpacks to hundreds of megabytes or leads to another host
ends as `NoAnswer`, whatever the server does. `timeout` is a deadline for the whole answer, not for one read. What the
answer says is not looked at here; see `_server_problems` and `_server_replies`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

from simgym.extras import optional_import
from simgym.language_models._server_replies import number

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_ANSWER_BYTES = 32 * 2**20
"""Largest answer, as it comes over the wire and unpacked; 32,000 tokens with log-probabilities are about 6 MiB."""
_WINDOW_BITS = 47  # zlib: gzip or deflate, whichever the header says
_POOL = 16
"""Requests of one connection pool at a time: at each request, httpcore goes through all connections of its pool."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a server answered."""

    status: int
    """HTTP status, 200 to 599."""
    content: bytes
    """The body, unpacked; at most `MAX_ANSWER_BYTES`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header lines by name in lower case."""

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait, >= 0; None if it does not."""
        for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
            if (seconds := number(self.headers.get(name))) is not None:
                return max(0.0, seconds / unit)
        with contextlib.suppress(KeyError, ValueError, TypeError, OverflowError):
            return max(0.0, parsedate_to_datetime(self.headers["retry-after"]).timestamp() - time.time())
        return None


class NoAnswer(Exception):
    """There is no usable answer; the text says why, without the address."""

    def __init__(self, kind: Literal["timeout", "connection", "broken", "redirect"], text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ServerClient:
    """An `openai.AsyncOpenAI` that repeats nothing, stays at its host, and reads no more than `MAX_ANSWER_BYTES`.

    Hundreds of requests at a time have several connection pools; used in one event loop.
    """

    def __init__(self, base_url: str, key: str, headers: Mapping[str, str] | None = None) -> None:
        """Nothing is sent yet; `key` and `headers` go into each request."""
        openai = optional_import("openai", "openai")
        flavour = next(
            kind.__module__ for kind in openai.DefaultAsyncHttpxClient.__mro__ if kind.__name__ == "AsyncClient"
        )
        http = importlib.import_module(flavour.partition(".")[0])  # httpx, or httpx2 from openai 3 on
        home = http.URL(base_url)

        async def stay(request: Any) -> None:
            if _origin(request.url) != _origin(home) and not _is_upgrade(home, request.url):
                raise NoAnswer("redirect", f"{request.url.scheme}://{request.url.host}")

        async def bound(response: Any) -> None:
            content = await _read(response)
            await response.stream.aclose()
            for name in ("content-encoding", "content-type"):  # unpacked; and no codec of the server's choice
                response.headers.pop(name, None)
            response.stream = http.ByteStream(content)

        self._openai = openai
        self._raw = http.Response
        tls = http.create_ssl_context()

        def client() -> AsyncOpenAI:
            asking: AsyncOpenAI = openai.AsyncOpenAI(
                api_key=key,
                base_url=base_url,
                max_retries=0,
                timeout=None,
                default_headers={**(headers or {}), "Accept-Encoding": "gzip"},  # what `_read` can unpack within bounds
                http_client=openai.DefaultAsyncHttpxClient(
                    event_hooks={"request": [stay], "response": [bound]},
                    follow_redirects=True,
                    max_redirects=3,
                    timeout=None,
                    verify=tls,
                ),
            )
            return asking

        self._new_client = client
        self._in_flight: dict[AsyncOpenAI, int] = {client(): 0}

    async def exchange(self, path: str, body: Mapping[str, object] | None, *, timeout: float) -> Exchange:
        """Post `body` (None: get) and return what the server answers within `timeout` seconds, whatever its status.

        Raises:
            NoAnswer: no connection, no whole answer in time, one that is too large or cannot be unpacked, or a
                redirect to another host.
        """
        client = self._client_with_room()
        self._in_flight[client] += 1
        try:
            async with asyncio.timeout(timeout):
                if body is None:
                    response = await client.get(path, cast_to=self._raw)
                else:
                    response = await client.post(path, body=dict(body), cast_to=self._raw)
        except self._openai.APIStatusError as error:
            response = error.response
        except TimeoutError:
            raise NoAnswer("timeout", "no answer in time") from None
        except Exception as error:  # of openai, of the transport, or of a hook: all of them tell of the server
            raise self._reason(error) from None
        finally:
            self._in_flight[client] -= 1
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Exchange(int(response.status_code), bytes(response.content), headers)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._in_flight:
            await client.close()

    def _client_with_room(self) -> AsyncOpenAI:
        """The first client whose pool has room; a new one if none has."""
        for client, requests in self._in_flight.items():
            if requests < _POOL:
                return client
        self._in_flight[client := self._new_client()] = 0
        return client

    def _reason(self, error: BaseException) -> NoAnswer:
        """Our own reason if a hook gave one; else the class name alone: texts of transport errors can quote headers."""
        cause: BaseException | None = error
        for _ in range(10):
            if cause is None or isinstance(cause, NoAnswer):
                break
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, NoAnswer):
            return cause
        if isinstance(error, self._openai.APITimeoutError):
            return NoAnswer("timeout", "no answer in time")
        return NoAnswer("connection", type(error.__cause__ or error).__name__)


async def _read(response: Any) -> bytes:
    """The body, unpacked; stops reading where it gets too large."""
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise NoAnswer("broken", f"its answer is packed as {packing[:20]!r}, which was not asked for")
    read = bytearray()
    async for chunk in response.stream:
        read += chunk
        if len(read) > MAX_ANSWER_BYTES:
            raise _too_large()
    if packing in ("identity", "") or not read:
        return bytes(read)
    try:
        content = zlib.decompressobj(_WINDOW_BITS).decompress(bytes(read), MAX_ANSWER_BYTES + 1)
    except zlib.error:
        raise NoAnswer("broken", "its answer cannot be unpacked") from None
    if len(content) > MAX_ANSWER_BYTES:
        raise _too_large()
    return content


def _too_large() -> NoAnswer:
    return NoAnswer("broken", f"its answer is larger than {MAX_ANSWER_BYTES // 2**20} MiB")


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _is_upgrade(home: Any, url: Any) -> bool:
    """The same host, over TLS instead of plain HTTP."""
    return bool(home.scheme == "http" and url.scheme == "https" and home.host == url.host)
