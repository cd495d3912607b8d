"""Good answers made worse: cut off, repeated, padded, shuffled or garbled; what reward heads learn to tell apart.

Used by `embedded_reward.py`. Each function takes an answer and a random generator, and nothing else decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

FILLER = (
    "That is a great question, and there is a lot to say about it.",
    "There are many things to consider here, and every situation is different.",
    "It is important to keep in mind that this topic is very important.",
    "As with most things in life, it really depends on a number of factors.",
    "Many people have asked about this before, and many more will ask about it again.",
    "In general, it is always a good idea to think carefully before making a decision.",
    "At the end of the day, what matters most is what matters to you.",
    "This can be helpful in many ways, for many people, and in many cases.",
    "With that being said, it should be noted that there is more than one side to it.",
    "I hope this helps, and please let me know if there is anything else you need.",
)


def sentence_end(words: str, target: int) -> int:
    """The end of a sentence or line that is nearest to `target` characters; the whole text has one, too."""
    ends = [match.start() for match in re.finditer(r"(?<=[.!?:;])\s|\n|$", words) if match.start() > 15]
    return min(ends, key=lambda end: abs(end - target), default=len(words))


def excerpt(words: str, rng: np.random.Generator) -> str:
    """A strong answer's beginning, 100 to 800 characters, up to the end of a sentence."""
    return words[: sentence_end(words, round(float(np.exp(rng.uniform(np.log(100), np.log(800))))))]


def cut_off(words: str, rng: np.random.Generator) -> str:
    return words[: max(20, round(len(words) * float(rng.uniform(0.3, 0.9))))].rpartition(" ")[0]


def repeated(words: str, rng: np.random.Generator) -> str:
    parts = re.split(r"(?<=[.!?])\s+|\n+", words)
    kept = parts[: max(1, int(rng.integers(1, len(parts) + 1)) // 2)]
    return " ".join((kept * (1 + len(words) // max(1, len(" ".join(kept)))))[:40])[: max(60, len(words))]


def padded(words: str, rng: np.random.Generator) -> str:
    """A sentence or two of the answer among filler."""
    parts = [part for part in re.split(r"(?<=[.!?])\s+|\n+", words) if part]
    filler = [FILLER[int(number)] for number in rng.permutation(len(FILLER))]
    target, kept = len(words), [parts[0]] if rng.random() < 0.5 else []
    while sum(map(len, kept)) < target and filler:
        kept.insert(int(rng.integers(len(kept) + 1)), filler.pop())
    return " ".join(kept)


def shuffled(words: str, rng: np.random.Generator) -> str:
    """Sentences in another order; of three, one draw in six leaves them as they are, which is noise in the labels."""
    parts = [part for part in re.split(r"(?<=[.!?])\s+|\n+", words) if part]
    if len(parts) < 3:
        return garbled(words, rng)
    return " ".join(parts[int(number)] for number in rng.permutation(len(parts)))


def garbled(words: str, rng: np.random.Generator) -> str:
    """Neighbouring words swapped, and words dropped."""
    said = words.split(" ")
    rate = float(rng.uniform(0.1, 0.4))
    for place in range(len(said) - 1):
        if rng.random() < rate:
            said[place], said[place + 1] = said[place + 1], said[place]
    return " ".join(word for word in said if rng.random() > rate / 3)


CORRUPTIONS: dict[str, Callable[[str, np.random.Generator], str]] = {
    "cut_off": cut_off,
    "repeated": repeated,
    "padded": padded,
    "shuffled": shuffled,
    "garbled": garbled,
}
