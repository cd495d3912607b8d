"""One writer per output: whoever writes a file or folder has it locked until the run ends.

The lock belongs to the operating system, so that of a dead process holds up nobody. Beside it stands a note that says
who has it: process, machine, command and since when; a second run reads it, says so and leaves. In a locked folder all
files are locked. When the run ends the note is removed, and so are folders made for it that stayed empty. The lock file
stays: if it were removed, somebody could be waiting for the old one while a third locks a new one.

A folder's lock is `FOLDER/.simgym.lock`, a file's is `.FILE.lock` beside it. `/dev/null` and other special files have
none.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from simgym._forks import ForkSafeLock
from simgym.errors import OutputInUse, TranscriptError

_ours: dict[Path, int] = {}
"""Outputs that this process has locked, and the threads that have."""
_guard = ForkSafeLock()


@contextmanager
def lock_output(path: str | Path, *, folder: bool = False) -> Iterator[None]:
    """Be the only writer of a file or folder while the block runs; the thread that is may lock it again.

    Args:
        path: The output; it need not exist yet.
        folder: Whether it is a folder.

    Raises:
        OutputInUse: somebody else is writing; the message says who.
        TranscriptError: there can be no such file or folder, or it cannot be written to.
    """
    path = Path(os.path.realpath(path))
    if folder or not is_special(path):
        refuse_unwritable(path, folder=folder)
    if is_special(path) or _is_ours(path):
        yield
        return
    lock_path = path / ".simgym.lock" if folder else path.with_name(f".{path.name}.lock")
    created = _make_folders(lock_path.parent)
    try:
        with _operating_system_lock(lock_path, path):
            yield
    finally:
        nothing_written = not path.exists() if not folder else os.listdir(path) == [lock_path.name]
        if nothing_written:  # the run has failed before it wrote anything
            with suppress(OSError):
                lock_path.unlink()
        for parent in created:
            with suppress(OSError):
                parent.rmdir()


def is_special(path: str | Path) -> bool:
    """Whether a path is a device, pipe or socket: written to as it is, never renamed, cut or read back."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def refuse_unwritable(path: str | Path, *, folder: bool = False) -> None:
    """Say now what would otherwise be said when the work is done.

    Raises:
        TranscriptError: a folder stands where a file is wanted, or the other way round, or writing is not allowed.
    """
    path = Path(path)
    if not folder and path.is_dir():
        raise TranscriptError(f"{path} is a folder, expected a file. Give the name of a file in it.")
    if folder and path.exists() and not path.is_dir():
        raise TranscriptError(f"{path} is a file, expected a folder. Give the name of a folder.")
    standing = path
    while not os.path.lexists(standing) and standing != standing.parent:
        standing = standing.parent
    if standing != path and not standing.is_dir():
        raise TranscriptError(f"{path} cannot be made, because {standing} is a file. Give another place.")
    if not os.access(standing, os.W_OK):
        raise TranscriptError(f"{standing} cannot be written to (permission denied, or read-only). Give another place.")


@contextmanager
def _operating_system_lock(lock_path: Path, path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    note = lock_path.with_name(f"{lock_path.name}.json")
    lock = FileLock(lock_path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputInUse(f"{path} is being written by {_holder(note)}. Wait for it, or give another output.") from None
    except (OSError, NotImplementedError) as error:
        raise TranscriptError(f"{path} cannot be locked for writing: {error}. Give another place.") from error
    with _guard:
        _ours[path] = threading.get_ident()
    try:
        with suppress(OSError):
            note.write_text(json.dumps(_myself()), encoding="utf-8")
        yield
    finally:
        with _guard:
            _ours.pop(path, None)
        with suppress(OSError):
            note.unlink()
        lock.release()


def _is_ours(path: Path) -> bool:
    """Whether this thread has locked the output or a folder that it lies in."""
    with _guard:
        return any(_ours.get(place) == threading.get_ident() for place in (path, *path.parents))


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder; returns what was missing of its path, innermost first."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TranscriptError(f"Cannot make the folder {folder}: {error.strerror}. Give another place.") from error
    return missing


def _myself() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        # without its arguments, which may hold a key of a server
        "command": " ".join([Path(sys.argv[0]).name, *(word for word in sys.argv[1:2] if word.isalpha())]),
        "since": datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def _holder(note: Path) -> str:
    try:
        value = json.loads(note.read_text(encoding="utf-8"))
        return f"process {value['pid']} on {value['host']} since {value['since']} ({value['command']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or the disk is full
        return "another process"


def write_whole(path: str | Path, text: str, *, errors: str = "strict") -> None:
    """Write a UTF-8 file whole or not at all (a draft beside it, then a rename); special files are written to.

    Args:
        path: The file; its folder is created.
        text: What it shall hold.
        errors: What to do with characters that UTF-8 cannot hold, as for `str.encode`.

    Raises:
        TranscriptError: it cannot be written; a file that was there is as it was.
    """
    path = Path(path)
    refuse_unwritable(path)
    draft = path if is_special(path) else path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8", errors=errors)
        if draft != path:
            draft.replace(path)
    except OSError as error:
        if draft != path:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        raise TranscriptError(f"Cannot write {path}: {error.strerror}.") from error
