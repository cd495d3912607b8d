"""What counts as a word, for minimum lengths, exclusion rules and exports without texts.

Where words are separated by spaces, a word is what stands between them and holds a letter or digit. Chinese, Japanese,
Thai, Lao, Khmer, Burmese and Tibetan are written without spaces, and where their words end is a matter of dictionaries
that disagree: there every letter counts as a word. The page says so, and its script (`study.js`)
counts in the same way.
"""

from __future__ import annotations

import functools
from typing import Any

from simgym.extras import optional_import

UNSPACED = ("Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
"""Scripts that put no space between words."""
RULE = "in scripts without spaces between words, such as Chinese or Thai, every letter counts"
"""For participants."""


def words(text: str) -> list[str]:
    """The words of a text, in order, with the punctuation that touches them."""
    return [word for word in _spaced().sub(r" \g<0> ", text).split() if _holds_letter().search(word)]


def count_words(text: str) -> int:
    """How many words a text has."""
    return len(words(text))


@functools.cache
def _spaced() -> Any:
    scripts = "".join(rf"\p{{Script={name}}}" for name in UNSPACED)
    return optional_import("regex", "study").compile(rf"(?V1)[[{scripts}]&&\p{{L}}]")


@functools.cache
def _holds_letter() -> Any:
    return optional_import("regex", "study").compile(r"[\p{L}\p{N}]")
