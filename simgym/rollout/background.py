"""Endless tasks in threads of their own, beside a trainer that takes what they make.

Many tasks share a thread (`simgym._fibers`). A task that fails stops all of them, and the trainer hears of it when it
asks for their health, as it does when nobody has got on for too long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import Full, Queue
from typing import TypeVar

from simgym import _fibers

Item = TypeVar("Item")
_PAUSE = 0.1
"""Seconds before a full buffer is tried again."""


class Background:
    """Threads that run tasks until they are stopped."""

    def __init__(self, max_threads: int = 16) -> None:
        """Nothing runs yet."""
        self.stopping = threading.Event()
        """Set when the tasks are to end."""
        self._max_threads = max_threads
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._heartbeat = time.monotonic()

    def start(self, tasks: Iterator[Callable[[], None]], at_once: int) -> None:
        """Begin tasks, so many at a time, >= 1."""
        self.beat()
        shared = _fibers.Shared(tasks)
        for share in _fibers.shares(at_once, self._max_threads):
            self._threads.append(threading.Thread(target=self._run, args=(shared, share), daemon=True))
            self._threads[-1].start()

    def beat(self, ahead: float = 0.0) -> None:
        """Somebody has got on; `ahead`: and will pause for so many seconds."""
        self._heartbeat = time.monotonic() + ahead

    def pause(self, seconds: float) -> bool:
        """Let others run for so long; whether the tasks are to end."""
        return _fibers.pause(self.stopping, seconds)

    def offer(self, item: Item, buffer: Queue[Item]) -> bool:
        """Put it into a buffer; False, after a pause, if that is full."""
        self.beat()
        try:
            buffer.put_nowait(item)
        except Full:
            self.pause(_PAUSE)
            return False
        return True

    def join(self) -> None:
        """Wait until the threads that were told to stop have ended, at most 30 s each."""
        for thread in self._threads:
            thread.join(timeout=30)

    def check(self, stale_after_s: float) -> None:
        """Raise if a task has failed, or if nobody has got on for so many seconds.

        Raises:
            RuntimeError: the cause is chained.
        """
        if self._error is not None:
            raise RuntimeError(f"The rollout worker has failed: {self._error}") from self._error
        if (silent := time.monotonic() - self._heartbeat) > stale_after_s:
            raise RuntimeError(
                f"No conversation has gone on for {silent:.0f} s, at most {stale_after_s:g} are expected."
            )

    def _run(self, tasks: Iterator[Callable[[], None]], share: int) -> None:
        try:
            _fibers.run_tasks(tasks, share)
        except BaseException as error:  # told by check
            if not self.stopping.is_set():
                self._error = error
                self.stopping.set()
