"""What counts as a word, in every script.

Where words are separated by spaces, a word is what stands between them and holds a letter or digit. Chinese, Japanese,
Thai, Lao, Khmer, Burmese and Tibetan are written without spaces, and where their words end is a matter of dictionaries
that disagree: there every letter counts as a word, with the marks that belong to it. The study's page says so, and its
script (`study.js`) counts in the same way. `spaced` makes the two alike for whatever splits at spaces: runs of seven
words, copied intents, lengths. Texts of other scripts come out as they went in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

UNSPACED = ("Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
"""Scripts that put no space between words."""
LETTERS_PER_WORD = 1.6
"""Letters of such a script that say about as much as a word of English, for thresholds that were set in English."""
RULE = "in scripts without spaces between words, such as Chinese or Thai, every letter counts"
"""For participants."""


def spaced(text: str) -> str:
    """The text with a space on both sides of every letter of a script that puts none between words."""
    return text if text.isascii() else " ".join(_unspaced_letter().split(text))


def words(text: str) -> list[str]:
    """The words of a text, in order, with the punctuation that touches them."""
    return [word for word in spaced(text).split() if _compiled(r"[\p{L}\p{N}]").search(word)]


def count_words(text: str) -> int:
    """How many words a text has."""
    return len(words(text))


def letter_pairs(text: str) -> list[str]:
    """Neighbouring letters of scripts without spaces, which stand for content words there: most words have two or more.

    A single letter is in too many words to tell what a text is about. Empty for other scripts.
    """
    if text.isascii():
        return []
    runs = [_unspaced_letter().findall(run) for run in _unspaced_run().findall(text)]
    return [first + second for run in runs for first, second in pairwise(run)]


def english_words(of_text: list[str]) -> float:
    """How much words say, in words of English: letters of scripts without spaces count less; see `LETTERS_PER_WORD`."""
    letters = sum(1 for word in of_text if not word.isascii() and _unspaced_letter().fullmatch(word))
    return len(of_text) - letters + letters / LETTERS_PER_WORD


@functools.cache
def _unspaced_letter() -> re.Pattern[str]:
    return re.compile(f"({_letter_with_marks()})")


@functools.cache
def _unspaced_run() -> re.Pattern[str]:
    return re.compile(f"(?:{_letter_with_marks()}){{2,}}")


@functools.cache
def _letter_with_marks() -> str:
    """A pattern for the standard library, whose sets of characters are faster than regex's properties.

    They are so below U+10000 only, hence the two parts.
    """
    scripts = "".join(rf"\p{{Script={name}}}" for name in UNSPACED)
    kind = rf"[[{scripts}]&&\p{{L}}]"
    below = [*range(0x80, 0xD800), *range(0xE000, 0x10000)]
    letters, rare = _characters(kind, below), _characters(kind, range(0x1A000, 0x34000))
    return f"(?:[{letters}]|[{rare}])[{_characters(chr(92) + 'p{M}', below)}]*"


def _characters(kind: str, codes: Iterable[int]) -> str:
    """Those of a kind, as ranges."""
    runs = _compiled(f"{kind}+").findall("".join(map(chr, codes)))
    return "".join(f"{re.escape(run[0])}-{re.escape(run[-1])}" for run in runs)


@functools.cache
def _compiled(pattern: str) -> Any:
    import regex  # type: ignore[import-untyped]  # where used: it is not needed to import simgym

    return regex.compile(pattern, regex.V1)
