"""A bound on how long Python code of somebody else may run, in whichever thread: chat templates of models, say.

A timer raises an exception inside the running thread at its next bytecode. A single call into C (a regular expression,
a multiplication of a text by a billion) is not interrupted: what can be bounded beforehand, has to be.
"""

from __future__ import annotations

import contextlib
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
    lock, ended, fired = threading.Lock(), threading.Event(), threading.Event()

    def interrupt() -> None:
        with lock:
            if not ended.is_set():
                fired.set()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TookTooLong))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except TookTooLong:
        fired.clear()
        raise TookTooLong(f"it was still running after {seconds:g} seconds") from None
    finally:
        with lock:
            ended.set()
        timer.cancel()
        if fired.is_set():
            _let_it_pass()


def _let_it_pass() -> None:
    """Catch an exception that was set when the block had just ended.

    Taking it back instead (`PyThreadState_SetAsyncExc` with NULL) leaves the interpreter's mark that there is one, with
    which Python 3.11 hangs at the next function that a debugger or a coverage tool traces.
    """
    with contextlib.suppress(TookTooLong):
        for _ in range(100_000):
            pass
