"""A bound on how long Python code of somebody else may run, in whichever thread: chat templates of models, say.

A timer raises an exception inside the running thread at its next bytecode. A single call into C (a regular expression,
a multiplication of a text by a billion) is not interrupted: what can be bounded beforehand, has to be.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TookTooLong(Exception):
    """The code did not end within its time."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Run the block for so many seconds at most.

    Raises:
        TookTooLong: it was still running.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    lock, ended = threading.Lock(), threading.Event()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def interrupt() -> None:
        with lock:
            if not ended.is_set():
                raise_in(thread, ctypes.py_object(TookTooLong))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except TookTooLong:
        raise TookTooLong(f"it was still running after {seconds:g} seconds") from None
    finally:
        with lock:
            ended.set()
            raise_in(thread, None)  # one that was set and has not been raised yet
        timer.cancel()
