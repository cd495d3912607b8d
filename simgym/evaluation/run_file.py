"""A JSONL file of finished pieces of work that a later run goes on from.

The first line says what the pieces depend on (fingerprints, hashes, seed); every other line is one piece with a `key`.
Lines are flushed as they are written, a line torn by a kill is cut off, and a file that was made under another header
is refused: results must not be mixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from simgym.errors import ConfigurationError, MalformedFile
from simgym.transcripts import cut_torn_line


class RunFile:
    """Rows by key, read and appended; a context manager. Without a path rows are only held."""

    def __init__(self, path: str | Path | None, header: Mapping[str, Any]) -> None:
        """Read what is there.

        Args:
            path: The file; its folder is created. None: nothing is written.
            header: JSON values that every row depends on.

        Raises:
            ConfigurationError: the file was made under another header; the message names what differs.
            MalformedFile: a line is not a row.
        """
        self.path = Path(path) if path is not None else None
        self.header: dict[str, Any] = json.loads(json.dumps(header))
        self.rows: dict[str, dict[str, Any]] = {}
        self._file: IO[str] | None = None
        if self.path is not None and self.path.exists():
            self._read(self.path)

    @classmethod
    def open(cls, path: str | Path) -> RunFile:
        """A file as it is, under whatever header it was made.

        Raises:
            MalformedFile: it cannot be read.
        """
        try:
            with Path(path).open(encoding="utf-8") as lines:
                header = json.loads(next(lines, ""))
        except (OSError, ValueError) as error:
            raise MalformedFile(f"{path}, line 1: cannot be read ({error!r}).") from error
        return cls(path, header)

    def append(self, row: Mapping[str, Any]) -> None:
        """Keep a row, which has a `key`; what was appended survives a kill of this process."""
        self.rows[str(row["key"])] = dict(row)
        if self._file is not None:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()

    def __enter__(self) -> RunFile:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists() or self.path.stat().st_size == 0
            self._file = self.path.open("a", encoding="utf-8")
            if new:
                self._file.write(json.dumps(self.header, allow_nan=False) + "\n")
                self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: Path) -> None:
        cut_torn_line(path)
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    if number > 1:
                        self.rows[str(row["key"])] = row
                        continue
                except (ValueError, KeyError, TypeError) as error:
                    raise MalformedFile(f"{path}, line {number}: cannot be read ({error!r}).") from error
                if row != self.header:
                    keys = {*row, *self.header} if isinstance(row, dict) else set(self.header)
                    differing = sorted(
                        key for key in keys if not isinstance(row, dict) or row.get(key) != self.header.get(key)
                    )
                    raise ConfigurationError(
                        f"{path} was made with another {', '.join(differing)}. Give another folder, or remove the file."
                    )
