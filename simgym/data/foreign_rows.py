"""A conversation as a reader of somebody else's format gives it, and what all such readers need of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MISSING = frozenset(
    {"", "nan", "none", "null", "<na>", "nat", "na", "n/a", "#n/a", "nil", "(null)", "\\n", "undefined", "unknown",
     "anonymous", "-", "?"}
)  # fmt: skip
"""What pandas, R, spreadsheets, databases and loggers write for a value that is missing; in lower case."""

LogRow = Mapping[str, Any]
"""An object of a log, which holds what its author wrote. A KeyError or TypeError on the way leaves the row out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRow:
    """One conversation as a format's reader gives it, its turns not yet looked at."""

    id: str
    """The log's own id, or the number of the row."""
    turns: Sequence[tuple[object, object]]
    """Who speaks and what, in the log's own words."""
    user: str = ""
    """What identifies the user; empty if unknown."""
    language: str = ""
    """As the log names it; empty if unknown."""
    country: str = ""
    """Empty if unknown."""
    intent: str = ""
    """A written description of what the user wants; empty without one."""


def as_mapping(row: object) -> LogRow:
    """A row that must be an object; else TypeError."""
    if not isinstance(row, Mapping):
        raise TypeError(f"a {type(row).__name__}, expected an object")
    return row


def row_id(row: Mapping[str, object], number: int, *names: str) -> str:
    """The log's own id, under the first of these names, or the number of the row."""
    return optional(row, *names) or f"row {number}"


def optional(row: Mapping[str, object], *names: str) -> str:
    """The first of these values that is there and plain, as a text; else empty."""
    values = (row.get(name) for name in names)
    return next(filter(None, (known_text(value) for value in values if isinstance(value, str | int))), "")


def known_text(value: object) -> str:
    """A value as text; empty for all the ways in which tables say that there is none."""
    text = "" if value is None else str(value).strip()
    return "" if text.casefold() in _MISSING else text
