"""What makes a simulated user's turn invalid, by its text alone.

The checks are cheap and err on the side of letting a turn pass: they look for turns that are certainly invalid, not
for turns that are merely unconvincing (realism is measured in `evaluation/realism.py`).
"""

from __future__ import annotations

import functools
import re

from simgym.conversation import Conversation, Scenario
from simgym.simulators.role_flips import find_role_flip
from simgym.words import english_words, spaced

_SHORTEST_COPY = 5
"""Words of English, as `english_words` counts; shorter goals turn up in honest messages by chance."""
_SHORTEST_ECHO = 3
"""Words; people do answer "Goodbye!" with "Goodbye!"."""


def find_fault(text: str, scenario: Scenario, conversation: Conversation) -> str | None:
    """Why a user turn is invalid, or None.

    Returns:
        `empty`, `role_flip: ...` (claims the assistant's part, or repeats its last message), `intent_copied` (holds the
        goal of the intent word for word) or `repeated` (equals the user's turn before).
    """
    words = _words(text)
    if not words:
        return "empty" if not text.strip() else None
    if (claim := find_role_flip(text)) is not None:
        return f"role_flip: {claim!r}"
    said_by_assistant, said_by_user = conversation.said_by("assistant"), conversation.said_by("user")
    if said_by_assistant and english_words(words) >= _SHORTEST_ECHO and words == _words(said_by_assistant[-1]):
        return "role_flip: repeats the assistant"
    goal = _words_of_goal(scenario.goal)
    if english_words(list(goal)) >= _SHORTEST_COPY and f" {' '.join(goal)} " in f" {' '.join(words)} ":
        return "intent_copied"
    if said_by_user and words == _words(said_by_user[-1]):
        return "repeated"
    return None


@functools.lru_cache(4096)
def _words_of_goal(goal: str) -> tuple[str, ...]:
    return tuple(_words(goal))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", spaced(text.casefold()))
