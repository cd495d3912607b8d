"""Names as a page shows them: whole words, and assistants with what they were trained with.

A name comes from a command line or a file and may be anything: it is escaped, and a browser may break it between its
words, or after every so many characters where there are no words, but nowhere else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from simgym.report.results import MatrixResults, short_name

if TYPE_CHECKING:
    from markupsafe import Markup

_LONGEST = 22
"""Characters that are kept on one line."""
_WORD = re.compile(r"[^\s/_+:.\-]*[\s/_+:.\-]?")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def name_pieces(name: str, longest: int = _LONGEST) -> list[str]:
    """The name in pieces that stay whole: between words, at a capital in `camelCase`, at the latest after `longest`."""
    words = [hump for word in _WORD.findall(name) for hump in _HUMP.split(word) if hump]
    return [word[at : at + longest] for word in words for at in range(0, len(word), longest)]


def breakable(name: str) -> Markup:
    """The name, escaped, with a possible line break after each of its pieces."""
    from markupsafe import Markup

    return Markup("<wbr>").join(name_pieces(str(name)))


def training_of(results: MatrixResults, assistant: str) -> str:
    """What an assistant was trained with, e.g. `trained with Persona, 20 updates`; empty if that is not known."""
    compared = results.comparisons
    simulator = compared.trained_on.get(assistant) if compared is not None else None
    curve = next((curve for curve in results.curves if curve.name == assistant), None)
    parts = [f"trained with {short_name(simulator)}"] if simulator is not None else []
    if curve is not None and curve.at:
        count = curve.at[-1]
        parts.append(f"{'' if parts else 'trained, '}{count:,} {curve.unit}{'' if count == 1 else 's'}")
    return ", ".join(parts)
