"""Many blocking tasks in one thread: each is a greenlet, which lets the others go on while it waits for a server.

`run_tasks` runs plain functions, as many at a time as it is told. Where such a function waits for a future (`result`)
or pauses (`pause`), its call stack is put aside and another task of the thread runs; elsewhere in the process the same
two functions simply wait. So whatever asks a model behind a server (assistants, simulators, judges, plug-ins, written
as plain functions) need not know of it, and 512 conversations need no 512 threads. What blocks in any other way, a
model in this process for instance, keeps the other tasks of its thread waiting: give such work several threads.

A task must not hold a `threading.Lock` while it asks a server: the next task of its thread would wait for ever.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

_T = TypeVar("_T")
_here = threading.local()
_LONGEST_PAUSE = 0.2
"""Seconds after which a task that pauses looks whether it is to stop."""


def run_tasks(tasks: Iterator[Callable[[], None]], limit: int) -> None:
    """Run all tasks in this thread, at most `limit` at a time.

    The next task is taken when one has ended. After an error no further task begins, those that have begun are run to
    their end, and the first error is raised.
    """
    if limit == 1:
        for task in tasks:
            task()
        return
    _here.scheduler = scheduler = _Scheduler()
    try:
        scheduler.run(tasks, limit)
    finally:
        del _here.scheduler


def result(future: Future[_T]) -> _T:
    """`future.result()`; in a task of `run_tasks`, other tasks of the thread go on meanwhile."""
    scheduler: _Scheduler | None = getattr(_here, "scheduler", None)
    if scheduler is not None:
        scheduler.wait(future)
    return future.result()


def pause(stopping: threading.Event, seconds: float) -> bool:
    """`stopping.wait(seconds)`; in a task of `run_tasks`, other tasks of the thread go on meanwhile."""
    scheduler: _Scheduler | None = getattr(_here, "scheduler", None)
    if scheduler is None:
        return stopping.wait(seconds)
    end = time.monotonic() + seconds
    while not stopping.is_set() and (left := end - time.monotonic()) > 0:
        scheduler.sleep(min(left, _LONGEST_PAUSE))
    return stopping.is_set()


def shares(tasks: int, max_threads: int) -> list[int]:
    """How many tasks each thread runs at a time, of so many, >= 1, in at most so many threads."""
    threads = min(max_threads, tasks)
    return [tasks // threads + (number < tasks % threads) for number in range(threads)]


class Shared:
    """An iterator of tasks for several threads."""

    def __init__(self, tasks: Iterator[Callable[[], None]]) -> None:
        self._tasks, self._lock = tasks, threading.Lock()

    def __iter__(self) -> Shared:
        return self

    def __next__(self) -> Callable[[], None]:
        with self._lock:
            return next(self._tasks)


class _Scheduler:
    """Runs the tasks of one thread."""

    def __init__(self) -> None:
        self._home = getcurrent()
        self._ready: SimpleQueue[greenlet] = SimpleQueue()
        self._asleep: list[tuple[float, int, greenlet]] = []
        self._numbers = itertools.count()
        self._error: BaseException | None = None

    def run(self, tasks: Iterator[Callable[[], None]], limit: int) -> None:
        """See `run_tasks`."""
        running = 0
        while True:
            while running < limit and self._error is None and (task := next(tasks, None)) is not None:
                running += self._goes_on(greenlet(self._guarded(task)))
            if not running:
                break
            running -= not self._goes_on(self._next_ready())
        if self._error is not None:
            raise self._error

    def wait(self, future: Future[Any]) -> None:
        """Let others run until the future is done."""
        task = getcurrent()
        future.add_done_callback(lambda _: self._ready.put(task))  # in whichever thread that is
        self._home.switch()

    def sleep(self, seconds: float) -> None:
        """Let others run for so long."""
        heapq.heappush(self._asleep, (time.monotonic() + seconds, next(self._numbers), getcurrent()))
        self._home.switch()

    def _goes_on(self, task: greenlet) -> bool:
        """Run it until it waits or ends; whether it waits."""
        task.switch()
        return not task.dead

    def _next_ready(self) -> greenlet:
        while True:
            if not self._asleep:
                return self._ready.get()
            wakes = self._asleep[0][0] - time.monotonic()
            if wakes <= 0:
                return heapq.heappop(self._asleep)[2]
            with suppress(Empty):
                return self._ready.get(timeout=wakes)

    def _guarded(self, task: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                task()
            except BaseException as error:  # raised by `run` when the others have ended
                self._error = self._error or error

        return run
