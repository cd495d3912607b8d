"""Connections of the study's server: how many there are, and how long one may take over a request.

There are fewer than the process may open files, so that the database and a newcomer always find one. When all are
taken, the one that has been sending, or has sent nothing, for the longest makes room: thousands of requests that never
end lock nobody out. A request has so long to arrive, whole; its answer, so long to be fetched.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_ARRIVING = 75.0
"""Seconds for headers and body; the app itself refuses a body after 60, in words."""
_SILENT = 10.0
"""Seconds until a new connection has sent its headers."""
_ANSWERING = 600.0
"""Seconds until an answer is fetched."""
_RESERVED = 100
"""Files that are no connections: database, logs, static files."""
_LONGEST_HEAD = 2**16
"""Bytes of a request line and headers; the parser itself takes any number."""
_LARGEST = 2**23
"""Bytes of a whole request, what follows its body included; the app refuses smaller bodies in words."""
_MOST = 4000
"""Connections, however many files may be open."""


def raise_file_limit() -> int:
    """Let the process open as many files as it may; how many connections that makes."""
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
    """Lets connections in, and shows out who takes too long."""

    def __init__(self, most: int, *, silent: float = _SILENT, arriving: float = _ARRIVING) -> None:
        """Begin with none.

        Args:
            most: How many there may be at once.
            silent: Seconds until the headers of a first request have come.
            arriving: Seconds until a whole request has come.
        """
        self.most, self.silent, self.arriving = most, silent, arriving
        self._inside: dict[Connection, None] = {}  # in the order in which they came

    def enter(self, connection: Connection) -> None:
        """Take somebody in; if all places are taken, somebody else leaves."""
        if len(self._inside) >= self.most:
            unfinished = (other for other in self._inside if other.unfinished)
            if (oldest := next(unfinished, None)) is not None:
                self.leave(oldest)
                oldest.hang_up()
        self._inside[connection] = None

    def leave(self, connection: Connection) -> None:
        """Forget somebody."""
        self._inside.pop(connection, None)


class _Joining:
    """A transport that sends together what is written in one turn of the event loop: head and body of an answer.

    Whoever has sent everything, and says so, is answered all the same: nothing waits for the next turn.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._unsent: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send at the end of this turn."""
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent.append(data)

    def flush(self) -> None:
        """Send now."""
        if self._unsent:
            data, self._unsent = b"".join(self._unsent), []
            self._transport.write(data)

    def close(self) -> None:
        """Send, and close."""
        self.flush()
        self._transport.close()


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, watched; made by `protocol`."""

    door: Door

    def connection_made(self, transport: Any) -> None:
        self._joining = _Joining(transport, self.loop)
        super().connection_made(self._joining)  # type: ignore[arg-type]
        self.unfinished = True
        self._received, self._heading = 0, True
        self._timer: asyncio.TimerHandle | None = None
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
        self._received, self._heading = 0, True
        self.unfinished = True
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
        self.unfinished = True
        self._received, self._heading = 0, True
        self._cancel()  # uvicorn waits for the next request itself
        super().on_response_complete()

    def hang_up(self) -> None:
        """Close at once."""
        self._cancel()
        self.transport.abort()

    def _within(self, seconds: float) -> None:
        self._cancel()
        self._timer = self.loop.call_later(seconds, self.hang_up)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(door: Door) -> type[Connection]:
    """The class that uvicorn makes connections of."""
    return type("StudyConnection", (Connection,), {"door": door})
