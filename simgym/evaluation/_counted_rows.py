"""Rows of a file of people's judgements, why the others cannot be used, and a few drawn of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from simgym.errors import ConfigurationError, MalformedFile
from simgym.jsonl import read_jsonl
from simgym.seeding import generator

Row = TypeVar("Row")


def read_counted(
    path: str | Path, read_row: Callable[[Mapping[str, object], int], Row | str], *, what: str, expected: str
) -> tuple[tuple[Row, ...], dict[str, int]]:
    """The usable rows of a JSONL file, and how many were left out, by reason.

    Args:
        path: A JSON object a line.
        read_row: Gives what an object with this line number is, or the reason why it cannot be used.
        what: What a usable row is, for messages: "rated conversation".
        expected: What the file should hold.

    Raises:
        ConfigurationError: there is no such file, or no usable row; the message counts the reasons.
        MalformedFile: a line is not a JSON object.
    """
    if not Path(path).exists() or Path(path).is_dir():
        raise ConfigurationError(f"There is no file {path}. Expected {expected}.")
    kept: list[Row] = []
    reasons: Counter[str] = Counter()
    for number, value in read_jsonl(path):
        if not isinstance(value, Mapping):
            raise MalformedFile(f"{path}, line {number}: not a JSON object.")
        row = read_row(value, number)
        if isinstance(row, str):
            reasons[row] += 1
        else:
            kept.append(row)
    if not kept:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "it is empty"
        raise ConfigurationError(f"{path} has no {what} ({listed}). Expected {expected}.")
    return tuple(kept), dict(reasons)


def drawn(rows: Sequence[Row], limit: int | None, seed: int, purpose: str) -> list[Row]:
    """So many of the rows, in their order, drawn by the seed and what it is for; all if `limit` is None or no fewer."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(generator(seed, purpose).permutation(len(rows))[:limit])]
