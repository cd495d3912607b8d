"""From a judge's reply to a grade or a fault; there is no default grade."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

LOWEST_GRADE, HIGHEST_GRADE = 0, 10


@dataclass(frozen=True, slots=True)
class Grade:
    """What was read from a reply."""

    value: float | None
    """Grade in [0, 10]; None if it could not be read."""
    thought: str
    """The judge's reason; empty if it gave none."""
    fault: str | None
    """`unparsable: ...` or `out_of_range: ...`; None if there is a grade."""


def read_grade(reply: str) -> Grade:
    """The grade in the first JSON object of a reply that has a `score`.

    Text before and after the object (such as a code fence) is ignored. A score written as a text of digits counts as
    a number; anything else, or a number outside 0 to 10, is a fault.
    """
    decoder = json.JSONDecoder(strict=False)
    for start in (index for index, character in enumerate(reply) if character == "{"):
        try:
            value, _ = decoder.raw_decode(reply[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "score" in value:
            return _grade(value["score"], str(value.get("thought", "")))
    return Grade(None, "", "unparsable: no JSON object with a score")


def _grade(score: object, thought: str) -> Grade:
    if isinstance(score, bool) or not isinstance(score, int | float | str):
        return Grade(None, thought, f"unparsable: score is a {type(score).__name__}")
    try:
        number = float(score)
    except (ValueError, OverflowError):
        return Grade(None, thought, "unparsable: score is not a number")
    if not math.isfinite(number) or not LOWEST_GRADE <= number <= HIGHEST_GRADE:
        return Grade(None, thought, f"out_of_range: score {number:g} is not within 0 to 10")
    return Grade(number, thought, None)
