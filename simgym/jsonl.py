"""JSON files as they come in: strict, bounded, and with a sentence for whatever is not what it should be.

A JSONL file is divided at line feeds and nowhere else: U+2028, U+0085, form feeds and their kin are legal inside JSON
strings, and Python's own idea of a line breaks there. A byte order mark is skipped; UTF-16, UTF-32, Latin-1 and
compressed files are recognised and named. NaN and Infinity are refused unless a caller asks for them, because other
readers of the same file would refuse them, too.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NoReturn

from simgym.errors import MalformedFile
from simgym.text_files import SUSPECTS, without_mark

LONGEST_LINE = 64 * 2**20
"""Bytes of a line; a longer one is an error instead of a full memory."""


def read_jsonl(
    path: str | Path,
    *,
    torn: Literal["read", "skip"] = "read",
    allow_nan: bool = False,
    errors: Literal["strict", "surrogateescape"] = "strict",
) -> Iterator[tuple[int, Any]]:
    """Yield the line numbers, from 1, and values of a JSONL file; blank lines are passed over.

    Args:
        path: The file.
        torn: What to do with a last line that no line feed ends. `read`: it counts like any other (files that people
            write); `skip`: its writer was killed, so it is left out (files that simgym appends to).
        allow_nan: Read NaN and Infinity as floats instead of refusing them.
        errors: `surrogateescape` turns bytes that are not UTF-8 into lone surrogates instead of refusing them.

    Raises:
        MalformedFile: the file cannot be opened, or a line is not UTF-8, not JSON or too long; the message names it.
    """
    for number, line in read_lines(path):
        if torn == "skip" and not line.endswith(b"\n"):
            return
        if line.strip():
            yield number, parse_line(line, f"{path}, line {number}", allow_nan=allow_nan, errors=errors)


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield the line numbers, from 1, and undecoded lines of a file, blank ones included.

    Raises:
        MalformedFile: the file cannot be opened, is not in UTF-8, or a line is too long.
    """
    with _opened(path, path) as file:
        yield from _lines_of(file, path)


@dataclass(frozen=True, slots=True)
class PlacedValue:
    """A value in a JSONL file."""

    line: int
    """Number of its line, from 1."""
    place: int
    """First byte of the line."""
    value: Any
    """What it holds."""


class PlacedValues:
    """The complete lines of a JSONL file, to be read once in order and later again from their places.

    What comes through a pipe is kept in a temporary file for that.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the file; nothing but a pipe is read before `scan`.

        Raises:
            MalformedFile: it is a pipe that cannot be read.
        """
        self.path = Path(path)
        self._spool: IO[bytes] | None = None
        if self.path.exists() and not self.path.is_file():
            self._spool = tempfile.NamedTemporaryFile()  # noqa: SIM115  # it lives as long as this
            with _opened(self.path, path) as pipe:
                shutil.copyfileobj(pipe, self._spool)
            self._spool.flush()

    def scan(self) -> Iterator[PlacedValue]:
        """All values in order; blank lines and a torn last one are left out.

        Raises:
            MalformedFile: as `read_jsonl`.
        """
        place = 0
        with self._open() as file:
            for number, line in _lines_of(file, self.path):
                if not line.endswith(b"\n"):
                    return
                if line.strip():
                    yield PlacedValue(number, place, parse_line(line, f"{self.path}, line {number}"))
                place = file.tell()

    def read(self, places: Iterable[int]) -> Iterator[Any]:
        """The values at these places.

        Raises:
            MalformedFile: the file is gone, or holds something else by now.
        """
        with self._open() as file:
            for place in places:
                file.seek(place)
                line = without_mark(file.readline(LONGEST_LINE + 1), self.path)
                yield parse_line(line, f"{self.path}, byte {place}")

    def _open(self) -> BinaryIO:
        return _opened(self.path if self._spool is None else self._spool.name, self.path)


def _opened(path: str | Path, name: str | Path) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise MalformedFile(f"Cannot read {name}: {error.strerror}.") from error


def _lines_of(file: BinaryIO, path: str | Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if number == 1:
            line = without_mark(line, path)
        if len(line) > LONGEST_LINE:
            raise MalformedFile(
                f"{path}, line {number}: longer than {LONGEST_LINE // 2**20} MiB. Is it JSONL, one object a line?"
            )
        yield number, line


def parse_line(
    line: bytes, where: str, *, allow_nan: bool = False, errors: Literal["strict", "surrogateescape"] = "strict"
) -> Any:
    """The value of a line; `where` says in messages which one it is. Otherwise as `read_jsonl`.

    Raises:
        MalformedFile: it is not UTF-8, or not JSON.
    """
    try:
        return parse_json(line.decode("utf-8", errors), allow_nan=allow_nan)
    except UnicodeDecodeError as error:
        raise MalformedFile(
            f"{where}: not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start}); {SUSPECTS}"
        ) from error
    except ValueError as error:
        raise MalformedFile(f"{where}: not JSON ({error}). Mend or remove it.") from error


def read_json(path: str | Path) -> Any:
    """The value of a whole JSON file.

    Raises:
        MalformedFile: it cannot be opened, or is not JSON in UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise MalformedFile(f"Cannot read {path}: {error.strerror}.") from error
    return parse_line(without_mark(data, path), str(path))


def parse_json(text: str, *, allow_nan: bool = False) -> Any:
    """A JSON value, read strictly: no NaN, no Infinity, no number beyond the range of a float.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        if allow_nan:
            return json.loads(text)
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def append_line(file: IO[bytes], line: bytes) -> None:
    """Append to a file that was opened without a buffer, and force it to disk; a line that fails is cut off again.

    Raises:
        OSError: it cannot be written; what was there is intact.
    """
    status = os.fstat(file.fileno())
    is_regular = stat.S_ISREG(status.st_mode)
    data = memoryview(line)
    try:
        while data:
            data = data[file.write(data) or 0 :]
        if is_regular:
            os.fsync(file.fileno())
    except OSError:
        if is_regular:
            with suppress(OSError):  # the write has failed already; readers pass over a torn line
                os.ftruncate(file.fileno(), status.st_size)
        raise


def cut_torn_line(path: Path) -> None:
    """Remove what a killed writer has left behind the last line feed of a file."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        position = size
        while position > 0:
            step = min(4096, position)
            file.seek(position - step)
            block = file.read(step)
            if (feed := block.rfind(b"\n")) >= 0:
                position = position - step + feed + 1
                break
            position -= step
        if position < size:
            file.truncate(position)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number; write null for what is missing")


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"the number {digits[:40]} is beyond the range of a float")
    return value
