"""Reads a judge's reply into a grade, a verdict or checklist items, or a fault; nothing has a default.

Replies are JSON objects where the backend can enforce a schema, and are read tolerantly where it cannot: text before
and after the object (such as a code fence) is ignored, and slips with one possible reading are mended (see
`simgym.almost_json`). Two objects that disagree, one of which may be a quotation of what an assistant wrote, are a
fault. Faults begin with a type: `refused: ...` (the model will not judge), `unparsable:
...` or `out_of_range: ...`; those of the model itself (`timeout: ...`, `server: ...`) come with the reply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simgym.almost_json import read_objects

LOWEST_GRADE, HIGHEST_GRADE = 0, 10
VERDICTS: Mapping[str, float] = {"A++": 1.0, "A+": 0.75, "TIE": 0.5, "B+": 0.25, "B++": 0.0}
"""What the words of a pairwise reply are worth for A."""
_REFUSAL = re.compile(
    r"\b(?:i['’]?m sorry|i apologi[sz]e|i can(?:no|['’])t|i(?: a|['’])m (?:unable|not able)|i will not|i won['’]t)\b",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(?:/|out of)\s*(\d{1,9})\s*")


@dataclass(frozen=True, slots=True)
class Grade:
    """What was read from a reply."""

    value: float | None
    """Grade in [lowest, highest]; None if it could not be read."""
    thought: str
    """The judge's reason; empty if it gave none."""
    fault: str | None
    """`refused: ...`, `unparsable: ...` or `out_of_range: ...`; None if there is a grade."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was read from a reply to a checklist."""

    items: tuple[bool, ...]
    """Whether each item is satisfied; empty if the reply could not be read."""
    reasons: tuple[str, ...]
    """One a item."""
    fault: str | None
    """`refused: ...` or `unparsable: ...`; None if every item was answered."""


def read_grade(reply: str, *, lowest: float = LOWEST_GRADE, highest: float = HIGHEST_GRADE) -> Grade:
    """The grade in the first JSON object of a reply that has a `score`.

    A score written as a text of digits counts as a number, and so does `8/10` where 10 is the highest; anything else,
    or a number outside the range, is a fault.
    """
    values = read_objects(reply, "score")
    if not values:
        return Grade(None, "", _unreadable(reply, "a score"))
    grades = [_grade(value["score"], str(value.get("thought", "")), lowest, highest) for value in values]
    if any((grade.value, grade.fault) != (grades[0].value, grades[0].fault) for grade in grades):
        return Grade(None, "", "unparsable: several objects with different scores")
    return grades[0]


def read_checklist(reply: str, count: int) -> Checked:
    """The answers to `count` items; a list of another length is a fault, not a partial score."""
    read = [
        _checked(value["items"], count) for value in read_objects(reply, "items") if isinstance(value["items"], list)
    ]
    if not read:
        return Checked((), (), _unreadable(reply, "items"))
    if any(checked.items != read[0].items for checked in read):
        return Checked((), (), "unparsable: several objects with different items")
    return read[0]


def _checked(items: list[Any], count: int) -> Checked:
    if len(items) != count:
        return Checked((), (), f"unparsable: {len(items)} answers to {count} items")
    if not all(isinstance(item, dict) and isinstance(item.get("satisfied"), bool) for item in items):
        return Checked((), (), "unparsable: an item has no satisfied that is true or false")
    return Checked(
        tuple(item["satisfied"] for item in items), tuple(str(item.get("reason", "")) for item in items), None
    )


def read_verdict(reply: str) -> Grade:
    """How much better A is than B, in [0, 1]: the `choice` in the first JSON object that has one."""
    values = read_objects(reply, "choice")
    if not values:
        return Grade(None, "", _unreadable(reply, "a choice"))
    if any(repr(value["choice"]) != repr(values[0]["choice"]) for value in values):
        return Grade(None, "", "unparsable: several objects with different choices")
    thought, choice = str(values[0].get("reason", "")), str(values[0]["choice"]).strip().upper()
    if choice in VERDICTS:
        return Grade(VERDICTS[choice], thought, None)
    return Grade(None, thought, f"unparsable: choice is {choice[:20]!r}")


def _unreadable(reply: str, what: str) -> str:
    if _REFUSAL.search(reply.partition("{")[0][:200]):
        return f"refused: {' '.join(reply.split())[:80]}"
    return f"unparsable: no JSON object with {what}"


def _grade(score: object, thought: str, lowest: float, highest: float) -> Grade:
    if isinstance(score, bool) or not isinstance(score, int | float | str):
        return Grade(None, thought, f"unparsable: score is a {type(score).__name__}")
    if isinstance(score, str):
        score = score.strip("*_` ").rstrip(".")
    if isinstance(score, str) and (fraction := _FRACTION.fullmatch(score)) and float(fraction[2]) == highest:
        score = fraction[1]
    try:
        number = float(score)
    except (ValueError, OverflowError):
        return Grade(None, thought, "unparsable: score is not a number")
    if not math.isfinite(number) or not lowest <= number <= highest:
        return Grade(None, thought, f"out_of_range: score {number:g} is not within {lowest:g} to {highest:g}")
    return Grade(number, thought, None)
