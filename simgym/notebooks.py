"""How conversations and tables look in a notebook: HTML that Jupyter shows for a value at the end of a cell.

What was said is hostile: it is escaped, and characters that nobody can see are written out. There is no script, no
picture and no link, so showing a transcript asks no other host for anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from simgym.visible_text import visible

_CHARACTERS = 4_000
"""Of one message; more makes a notebook unreadable, and the file has all of it."""
_SIDES = {"user": "margin:4px 20% 4px 0", "assistant": "margin:4px 0 4px 20%"}


def conversation_html(messages: Iterable[tuple[str, str]], facts: Mapping[str, object] | None = None) -> str:
    """A conversation as HTML: the user on the left, the assistant on the right.

    Args:
        messages: Who speaks, and what was said, in order.
        facts: Shown above, by name; None values are left out.
    """
    shown = {name: value for name, value in (facts or {}).items() if value is not None}
    rows = "".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in shown.items())
    table = f"<table>{rows}</table>" if rows else ""
    return f"<div>{table}{''.join(_message(role, content) for role, content in messages)}</div>"


def table_html(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML, the first cell of each row as its heading."""
    body = ""
    for first, *others in rows:
        body += f"<tr><th>{_text(first)}</th>{''.join(f'<td>{_text(text)}</td>' for text in others)}</tr>"
    names = "".join(f"<th>{_text(name)}</th>" for name in head)
    return f"<table><caption>{_text(caption)}</caption><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _message(role: str, content: str) -> str:
    cut = f"{content[:_CHARACTERS]} … ({len(content) - _CHARACTERS:,} characters more)"
    style = f"{_SIDES.get(role, 'margin:4px 10%')};padding:6px 10px;border:1px solid;border-radius:8px;text-align:left"
    said = _text(content if len(content) <= _CHARACTERS else cut)
    return f'<div style="{style}"><small>{_text(role)}</small><div style="white-space:pre-wrap">{said}</div></div>'


def _text(value: object) -> str:
    return escape(visible(str(value)))
