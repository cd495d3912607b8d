"""What a forked child must not inherit: locks that other threads held, connections, batches that are half done.

`AsyncVectorEnv`, `SubprocVecEnv` and the workers of a `DataLoader` fork on Linux. A child has the forking thread alone:
whatever another thread held or was about to finish stays so for ever, and the child waits. What has such state renews
it in every child, before anything else of simgym runs there. (OpenMP's threads: `language_models.threads`.)
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol


class Renewable(Protocol):
    """Has state that belongs to one process."""

    def renew_after_fork(self) -> None:
        """In a forked child: drop what belongs to the parent."""
        ...


_renewable: weakref.WeakSet[Any] = weakref.WeakSet()


def renew_in_children(owner: Renewable) -> None:
    """Call its `renew_after_fork` in every child that is forked from this process, as long as it exists."""
    _renewable.add(owner)


def _renew() -> None:
    for owner in list(_renewable):
        owner.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class ForkSafeLock:
    """A reentrant lock that nobody holds in a forked child; for state of a module."""

    def __init__(self) -> None:
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
