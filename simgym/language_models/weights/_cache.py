"""The cache folder: one sub-folder for each converted model, complete or absent.

It is `$SIMGYM_CACHE`, else `$XDG_CACHE_HOME/simgym`, else `~/.cache/simgym`. An entry is filled as a draft beside its
final place, under a file lock, and renamed when complete: two processes convert once, and a killed one leaves nothing
that looks finished. Whether there is room and permission is checked before anything is downloaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from simgym.errors import WeightsError

READY = "ready"
"""The folder inside a draft that becomes the entry."""
_WEIGHTS = "model.safetensors"
_QUIET_SECONDS = 3.0
"""After which somebody who waits for another process is told so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """One converted model in the cache folder."""

    name: str
    """Name of the entry's folder."""
    folder: str
    """Its path."""
    ready: bool
    """Whether it is complete, so that it loads without a network."""
    bytes: int
    """Size of its files together, bytes."""


def cache_folder() -> Path:
    """The folder for converted weights; not created here."""
    if configured := os.environ.get("SIMGYM_CACHE"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "simgym"


def cache_is_writable() -> bool:
    """Whether entries can be added: the folder, or the nearest one above it that exists, may be written to."""
    folder = cache_folder()
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def cached_models() -> list[CachedModel]:
    """The entries of the cache folder, sorted by name; drafts are left out."""
    folder = cache_folder()
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        CachedModel(
            name=entry.name,
            folder=str(entry),
            ready=entry_is_ready(entry.name),
            bytes=sum(path.stat().st_size for path in entry.glob("*") if path.is_file()),
        )
        for entry in entries
        if entry.is_dir() and ".draft-" not in entry.name
    ]


def entry_is_ready(name: str) -> bool:
    """Whether the entry is complete. Weights in shards have an index instead of one file."""
    folder = cache_folder() / name
    return (folder / _WEIGHTS).is_file() or (folder / f"{_WEIGHTS}.index.json").is_file()


@contextlib.contextmanager
def draft_of(name: str, *, purpose: str, needed_bytes: int) -> Iterator[Path | None]:
    """A folder to fill, under the lock of the entry; its sub-folder `ready` becomes the entry when the block ends.

    Args:
        name: Name of the entry.
        purpose: What is being prepared, for messages.
        needed_bytes: Free disk space without which nothing is begun.

    Yields:
        The draft's folder, or None when another process has completed the entry in the meantime.

    Raises:
        WeightsError: the cache folder cannot be written to, or the disk is too full; anything that the block raises
            as an OSError comes out as one, too.
    """
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _check_space(cache, purpose, needed_bytes)
        with _locked(cache / f"{name}.lock", purpose):
            if entry_is_ready(name):
                yield None
                return
            for stale in cache.glob(f"{name}.draft-*"):  # left by a killed process; we hold the lock
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f"{name}.draft-", dir=cache) as draft:
                yield Path(draft)
                shutil.rmtree(cache / name, ignore_errors=True)  # an entry without weights
                (Path(draft) / READY).rename(cache / name)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(
            f"Cannot prepare {purpose} in the cache folder {cache}: {error}. Expected a folder that can be written "
            "to, on a disk with room. Set SIMGYM_CACHE to another one."
        ) from error


@contextlib.contextmanager
def _locked(path: Path, purpose: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_QUIET_SECONDS)
    except Timeout:
        print(f"simgym: another process is preparing {purpose}; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_space(cache: Path, purpose: str, needed_bytes: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < needed_bytes:
        raise WeightsError(
            f"The disk of the cache folder {cache} has {free / 1e9:.1f} GB left; preparing {purpose} takes "
            f"{needed_bytes / 1e9:.1f} GB. Free some space, or set SIMGYM_CACHE to a folder on another disk."
        )
