"""A client with an event loop of its own, which many threads send their requests to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")


class ServerConnection:
    """The client and the thread whose event loop it lives in: callers may have a loop of their own (Jupyter)."""

    def __init__(self, client: Any, max_concurrency: int) -> None:
        """Start the thread; `client` is an `openai.AsyncOpenAI`, and `slots` bounds the requests in flight."""
        self.client = client
        self.slots = asyncio.Semaphore(max_concurrency)
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._serve, name="simgym-openai", daemon=True)
        self._thread.start()

    def run(self, coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
        """Their results in order; the first error, or an interrupt here, cancels the rest."""
        future = asyncio.run_coroutine_threadsafe(_gather(coroutines), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # does nothing to a finished one

    def stop(self) -> None:
        """Ask the thread to end, without waiting: also called by the garbage collector, in any thread."""
        if self._process == os.getpid():
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def close(self) -> None:
        """End the thread, and wait for it for a while."""
        self.stop()
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stopping.wait()
        await self.client.close()


async def _gather(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
