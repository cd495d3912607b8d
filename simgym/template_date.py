"""The date that a chat template writes into a prompt.

Some templates (Llama 3.2, gpt-oss) write today's date, by a function `strftime_now` that transformers gives them. A run
would then say other things tomorrow, with the same seeds. Here a template gets a `strftime_now` of its own, a macro in
front of it, which tells one fixed date whatever the clock says.
"""

from __future__ import annotations

import json
import re
from datetime import datetime

from simgym.errors import ConfigurationError

DEFAULT_DATE = "2024-07-26"
"""What templates take for today; the date that Llama 3 writes when it is told none."""
_FUNCTION = "strftime_now"
_START = f"{{% macro {_FUNCTION}("
_DIRECTIVES = "aAbBcdfHIjmMpSUwWxXyYzZ"
"""What may stand behind `%`, in every C library."""


def needs_date(template: str) -> bool:
    """Whether a template asks for the date."""
    return _FUNCTION in template


def with_date(template: str, date: str = DEFAULT_DATE) -> str:
    """The template with a date of its own; as it is if it asks for none, or has one already.

    Args:
        template: Jinja.
        date: Year, month and day, e.g. `2024-07-26`; the hour is midnight.

    Raises:
        ConfigurationError: it is not a date.
    """
    if not needs_date(template) or template.startswith(_START):
        return template
    moment = _read(date)
    words = {f"%{letter}": moment.strftime(f"%{letter}") for letter in _DIRECTIVES}
    # further ones that not every C library has
    words |= {"%-d": str(moment.day), "%-m": str(moment.month), "%e": f"{moment.day:>2}", "%F": date, "%T": "00:00:00"}
    replacements = "".join(f"|replace('{directive}', {json.dumps(word)})" for directive, word in words.items())
    # the new line ends the block, so that what follows is read as the beginning of a line, as it was
    return f"{_START}format) %}}{{{{ format{replacements} }}}}{{% endmacro %}}\n{template}"


def check_date(date: str) -> str:
    """The date itself.

    Raises:
        ConfigurationError: it is not one.
    """
    _read(date)
    return date


def _read(date: str) -> datetime:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
            raise ValueError
        return datetime.strptime(date, "%Y-%m-%d")
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"date is {date!r}, expected year, month and day, e.g. '{DEFAULT_DATE}' (in YAML between quotation marks)."
        ) from None
