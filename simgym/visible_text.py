"""Texts of models, files and people made safe to print: nothing in them acts on the terminal that shows them.

A control character is written out (`\\x1b`, `\\x85`), and so is one that changes the reading direction or cannot be
seen at all (`‹U+202E›`): a reader is shown that it is there, which removing it would hide. Line feed and tab stay.
"""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_PADDING = "    "


def visible(text: str) -> str:
    """The text with characters that act on a terminal, or that nobody can see, written out.

    CR LF counts as a line feed; a lone surrogate, which no terminal can be sent, becomes U+FFFD.
    """
    return _UNSEEN.sub(_written_out, text.replace("\r\n", "\n"))


def visible_turn(text: str) -> str:
    """`visible`, and all lines but the first indented: no line of a turn can pass for the beginning of another's."""
    return visible(text).replace("\n", f"\n{_PADDING}")


def _written_out(match: re.Match[str]) -> str:
    character = match[0]
    category = unicodedata.category(character)
    if category == "Cs":
        return "\ufffd"
    return f"\\x{ord(character):02x}" if category == "Cc" else f"‹U+{ord(character):04X}›"
