"""Connections of the study's server: how many there may be, and how long a request may take.

Their number stays below the process's limit of open files, so that the database and a newcomer always find a free one.
When all are taken, the oldest one without a complete request makes room: thousands of requests that never end lock
nobody out. A request has limited time to arrive in full, and its answer limited time to be fetched.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_ARRIVING = 75.0
"""Seconds for headers and body; the app refuses a body after 60 already, in words."""
_SILENT = 10.0
"""Seconds until a new connection has sent its headers."""
_ANSWERING = 600.0
"""Seconds until an answer is fetched."""
_RESERVED = 100
"""Files that are not connections: database, logs, static files."""
_LONGEST_HEAD = 2**16
"""Bytes of a request line and headers; the parser has no limit of its own."""
_LARGEST = 2**23
"""Bytes of a whole request and whatever follows its body; the app refuses bodies far smaller, in words."""
_MOST = 4000
"""Connections, however many files may be open."""


def raise_file_limit() -> int:
    """Let the process open as many files as it may; returns how many connections that allows."""
    try:
        import resource
    except ImportError:  # Windows
        return 400
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _RESERVED if hard == resource.RLIM_INFINITY else min(hard, _MOST + _RESERVED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(10, min(_MOST, (wanted if soft == resource.RLIM_INFINITY else soft) - _RESERVED))


class Door:
    """Lets connections in, and closes those that take too long."""

    def __init__(self, most: int, *, silent: float = _SILENT, arriving: float = _ARRIVING) -> None:
        """Start empty.

        Args:
            most: How many connections there may be at once.
            silent: Seconds within which the headers of a request must arrive.
            arriving: Seconds within which a whole request must arrive.
        """
        self.most, self.silent, self.arriving = most, silent, arriving
        self._inside: dict[Connection, None] = {}  # in order of arrival

    def enter(self, connection: Connection) -> None:
        """Let a connection in; if all places are taken, an unfinished one has to leave."""
        if len(self._inside) >= self.most:
            unfinished = (other for other in self._inside if other.unfinished)
            if (oldest := next(unfinished, None)) is not None:
                self.leave(oldest)
                oldest.hang_up()
        self._inside[connection] = None

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self._inside.pop(connection, None)


class _Joining:
    """A transport that joins what is written in one turn of the event loop: the head and the body of an answer.

    When the answer is complete, or the client closes its side, `flush` sends without waiting for the next turn.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._unsent: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send at the end of this turn of the event loop."""
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent.append(data)

    def flush(self) -> None:
        """Send now."""
        if self._unsent:
            data, self._unsent = b"".join(self._unsent), []
            self._transport.write(data)

    def close(self) -> None:
        """Send, then close."""
        self.flush()
        self._transport.close()


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, watched; made by `protocol`."""

    door: Door

    def connection_made(self, transport: Any) -> None:
        self._joining = _Joining(transport, self.loop)
        super().connection_made(self._joining)  # type: ignore[arg-type]
        self._timer: asyncio.TimerHandle | None = None
        self._expect_request()
        self.door.enter(self)
        self._within(self.door.silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self.door.leave(self)
        super().connection_lost(exc)

    def eof_received(self) -> None:
        self._joining.flush()  # the transport closes after this
        super().eof_received()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._received += len(data)
        if self._received > (_LONGEST_HEAD if self._heading else _LARGEST):
            self.hang_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_request()
        self._within(self.door.silent)

    def on_headers_complete(self) -> None:
        self._heading = False
        self._within(self.door.arriving)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.unfinished = False
        self._within(_ANSWERING)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._joining.flush()
        self._expect_request()
        self._cancel()  # uvicorn itself times the wait for the next request
        super().on_response_complete()

    def hang_up(self) -> None:
        """Close at once."""
        self._cancel()
        self.transport.abort()

    def _expect_request(self) -> None:
        self.unfinished, self._heading, self._received = True, True, 0

    def _within(self, seconds: float) -> None:
        self._cancel()
        self._timer = self.loop.call_later(seconds, self.hang_up)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(door: Door) -> type[Connection]:
    """The protocol class that uvicorn instantiates for each connection."""
    return type("StudyConnection", (Connection,), {"door": door})
