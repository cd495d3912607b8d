"""Whom a recruitment service sends: which id a link carries, whether it is one, and when two ids are the same person's.

Ids are compared as `canonical` writes them: compatibility characters (full width, ligatures) as the plain ones,
without characters that nobody sees (zero width, variation selectors) and spaces, and without regard to case. What the
link said is stored beside, for paying people. A link whose placeholder the service did not replace names nobody.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from simgym.extras import optional_import
from simgym.study.config import Recruitment
from simgym.study.rendering import clean_text

_LONGEST = 200
"""Characters of an id."""
_WIDEST = 256
"""Characters of its canonical form that are stored and compared: a few characters stand for many others."""
_PLACEHOLDER = re.compile(r"[{}\[\]<>$]|%\w|NOT_AVAILABLE")
"""Syntax of recruitment services and survey tools (`{{%PROLIFIC_PID%}}`, `${assignmentId}`), in no id."""


class Recruit(NamedTuple):
    """What a link says of a participant."""

    person: str | None
    """Canonical id; None: the study does not ask who somebody is."""
    parameters: dict[str, str]
    """All recruitment parameters, as the link has them."""


class Unusable(Exception):
    """A link does not say who somebody is; the message is for the participant."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """For the researcher's log; holds no id."""


def canonical(person: str) -> str:
    """An id as it is compared with others."""
    invisible = optional_import("regex", "study").compile(r"[\p{Default_Ignorable_Code_Point}\p{C}\s]+")
    folded = unicodedata.normalize("NFKC", invisible.sub("", unicodedata.normalize("NFKC", person))).casefold()
    return str(invisible.sub("", unicodedata.normalize("NFKC", folded)))


def recruit_of(settings: Recruitment, fields: Mapping[str, str], *, strict: bool) -> Recruit:
    """Who is meant by a link, or by the consent form that carries its parameters.

    If `strict`, and the study names such a parameter, nobody takes part without an id.

    Raises:
        Unusable: a placeholder was not replaced, or the id is missing or is none.
    """
    parameters = parameters_of(settings, fields)
    for name, value in parameters.items():
        if len(value) > _LONGEST:
            raise Unusable("A number in this link is too long to be one.", f"{name} in a link is too long")
        if _PLACEHOLDER.search(value):
            raise Unusable(
                "This link is not complete: where your participant number should stand, it still has a placeholder. "
                "Please open the study from the page on which you found it.",
                f"a link came with an unreplaced placeholder for {name}; check the link that is entered at the "
                "recruitment service",
            )
    if settings.unique is None:
        return Recruit(None, parameters)
    person = canonical(parameters.get(settings.unique, ""))
    if not person and strict:
        raise Unusable(
            "This link does not say who you are: your participant number is missing. Please open the study from the "
            "page on which you found it.",
            f"a link came without {settings.unique}; without it somebody could take part twice "
            "(recruitment.unique: null would let everybody in)",
        )
    return Recruit(person[:_WIDEST] or None, parameters)


def parameters_of(settings: Recruitment, fields: Mapping[str, str]) -> dict[str, str]:
    """The recruitment parameters among query parameters or form fields."""
    cleaned = {name: clean_text(fields.get(name, ""), _LONGEST + 1) for name in settings.parameters}
    return {name: value for name, value in cleaned.items() if value}
