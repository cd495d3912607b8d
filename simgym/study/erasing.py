"""Erases deleted data from the disk, in the background, until nothing is left.

Somebody who reads the database can hold up an attempt; it is tried again, soon at first and then less often, and after
a restart. Nobody who wants to write waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from simgym.errors import DatabaseUnavailable
from simgym.study.store import Store

log = logging.getLogger("simgym.study")
_SHORTEST, _LONGEST = 0.05, 10.0
"""Seconds between attempts."""


class Eraser:
    """Calls `Store.erase` until it is done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._asked = False

    def start(self) -> None:
        """Begin, unless that is under way; then everything is looked at once more."""
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._until_nothing_is_left())

    async def wait(self, seconds: float) -> None:
        """Wait until nothing is left, for at most so long."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)

    async def close(self) -> None:
        """Stop; the next start goes on."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _until_nothing_is_left(self) -> None:
        pause = _SHORTEST
        while self._asked:
            self._asked = erased = False
            try:
                erased = await self._store.erase()
            except DatabaseUnavailable as error:
                log.error("What was deleted is still on the disk. %s", error)
            if not erased:
                self._asked = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
