"""A client with an event loop of its own, which many threads send their requests to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, TypeVar

from simgym import _fibers

if TYPE_CHECKING:
    from simgym.language_models._server_exchange import ServerClient

_T = TypeVar("_T")
_connections: weakref.WeakSet[ServerConnection] = weakref.WeakSet()


class ServerConnection:
    """The client and the thread whose event loop it lives in: callers may have a loop of their own (Jupyter)."""

    def __init__(self, client: ServerClient, max_concurrency: int) -> None:
        """Start the thread; `client` has a coroutine `close`, and `slots` bounds the requests in flight."""
        self.client = client
        self.slots = asyncio.Semaphore(max_concurrency)
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._process = os.getpid()
        self._running: set[asyncio.Task[object]] = set()
        self._thread = threading.Thread(target=self._serve, name="simgym-openai", daemon=True)
        self._thread.start()
        _connections.add(self)

    def run(self, coroutines: Iterable[Coroutine[object, object, _T]]) -> list[_T]:
        """Their results in order; the first error, or an interrupt here, cancels the rest."""
        future = asyncio.run_coroutine_threadsafe(self._gather(coroutines), self._loop)
        try:
            return _fibers.result(future)
        finally:
            future.cancel()  # does nothing to a finished one

    def interrupt(self) -> None:
        """End what is in flight, whoever waits for it: `run` raises `concurrent.futures.CancelledError` there."""
        if self._process == os.getpid():
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._cancel)

    def stop(self) -> None:
        """Ask the thread to end, without waiting: also called by the garbage collector, in any thread."""
        if self._process == os.getpid():
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def close(self) -> None:
        """End the thread, and wait for it for a while."""
        self.stop()
        self._thread.join(timeout=5)

    def _cancel(self) -> None:
        for task in self._running:
            task.cancel()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stopping.wait()
        await self.client.close()

    async def _gather(self, coroutines: Iterable[Coroutine[object, object, _T]]) -> list[_T]:
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        self._running.update(tasks)
        try:
            return await asyncio.gather(*tasks)
        finally:
            self._running.difference_update(tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def interrupt_requests() -> None:
    """End every request to a server that is in flight in this process; for an interrupt (Ctrl-C) in another thread."""
    for connection in list(_connections):
        connection.interrupt()
