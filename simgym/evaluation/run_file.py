"""A JSONL file of finished pieces of work that a later run goes on from.

The first line says what the pieces depend on (fingerprints, hashes, seed); every other line is one piece with a `key`.
Lines are flushed as they are written, a line torn by a kill is cut off, and a file that was made under another header
is refused: results must not be mixed. While it is written no other process can write it, and it is created with its
first piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from simgym.errors import ConfigurationError, MalformedFile, TranscriptError
from simgym.fingerprints import describe_difference
from simgym.jsonl import cut_torn_line, read_jsonl
from simgym.output_files import is_special, lock_output
from simgym.typed_json import describe, from_json


class RunFile:
    """Rows by key, read and appended; a context manager. Without a path rows are only held."""

    def __init__(self, path: str | Path | None, header: Mapping[str, object], record: type | None = None) -> None:
        """Say what the rows depend on; nothing is read before `with`.

        Args:
            path: The file; its folder is created. None: nothing is written.
            header: JSON values that every row depends on.
            record: Dataclass that rows are read by; None: a row is any JSON object with a `key`.
        """
        self._record = record
        self.path = Path(path) if path is not None else None
        self.header: dict[str, Any] = json.loads(json.dumps(header))
        self.rows: dict[str, dict[str, Any]] = {}
        self._file: IO[str] | None = None
        self._closing = ExitStack()

    @classmethod
    def open(cls, path: str | Path, record: type | None = None) -> RunFile:
        """A file as it is, under whatever header it was made, to be read.

        Raises:
            MalformedFile: it cannot be read.
        """
        file = cls(None, {}, record)
        file._read(Path(path), None)
        return file

    def append(self, row: Mapping[str, Any]) -> None:
        """Keep a row, which has a `key`; what was appended survives a kill of this process.

        Raises:
            TranscriptError: the disk is full or the file is gone; earlier rows are intact.
        """
        self.rows[str(row["key"])] = dict(row)
        if self.path is None:
            return
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)  # where a folder above is what is locked
                self._file = self._closing.enter_context(self.path.open("a", encoding="utf-8", newline="\n"))
                if is_special(self.path) or self.path.stat().st_size == 0:
                    self._file.write(json.dumps(self.header, allow_nan=False) + "\n")
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise TranscriptError(
                f"Cannot write to {self.path}: {error.strerror}. What was written before is intact; free some space "
                "and run the same command again to go on."
            ) from error

    def __enter__(self) -> RunFile:
        """Lock the file, and read what is there.

        Raises:
            ConfigurationError: the file was made under another header; the message names what differs.
            MalformedFile: a line is not a row.
            OutputInUse: another process is writing it.
        """
        if self.path is not None:
            with ExitStack() as stack:
                stack.enter_context(lock_output(self.path))
                if self.path.exists() and not is_special(self.path):
                    cut_torn_line(self.path)
                    self._read(self.path, self.header)
                self._closing = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._closing.close()
        except OSError as failure:  # what is left in the buffer finds no room, either; the first error says so
            if kind is None:
                raise TranscriptError(f"Cannot write to {self.path}: {failure.strerror}.") from failure
        self._file = None

    def _read(self, path: Path, expected: Mapping[str, object] | None) -> None:
        """Take the rows; `expected` None: under any header."""
        header = None
        for number, row in read_jsonl(path, torn="skip"):
            if not isinstance(row, dict):
                raise MalformedFile(f"{path}, line {number}: {describe(row)}, expected a JSON object.")
            if header is None:
                header = row
                if expected is not None and row != expected:
                    differing = sorted(key for key in {*row, *expected} if row.get(key) != expected.get(key))
                    raise ConfigurationError(
                        f"{path} was made with another {', '.join(differing)}{describe_difference(row, expected)} "
                        "Give another folder, or remove the file."
                    )
            elif "key" not in row:
                raise MalformedFile(f"{path}, line {number}: a row without a `key`. Mend or remove it.")
            else:
                self._check(row, f"{path}, line {number}")
                self.rows[str(row["key"])] = row
        if header is None and expected is None:
            raise MalformedFile(f"{path} is empty, expected a line that says how it was made.")
        self.header = header or self.header

    def _check(self, row: Mapping[str, object], where: str) -> None:
        if self._record is None:
            return
        try:
            from_json(self._record, row, "row")
        except ConfigurationError as error:
            raise MalformedFile(f"{where}: {error} Remove that line, and run the same command again.") from error
