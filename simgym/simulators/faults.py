"""What makes a simulated user's turn invalid, by its text alone.

The checks are cheap and err on the side of letting a turn pass: they look for turns that are certainly invalid, not
for turns that are merely unconvincing (realism is measured in `evaluation/realism.py`).
"""

from __future__ import annotations

import functools
import re

from simgym.conversation import Conversation, Scenario

_ROLE_FLIP = re.compile(
    r"""\bas\ an?\ (?:ai\b|artificial\ intelligence|(?:large\ )?language\ model|virtual\ assistant)
      | \bi(?:'|’|\ a)m\ (?:just\ |only\ )?an?\ (?:ai\b|(?:large\ )?language\ model|chatbot|virtual\ assistant)
      | \bhow\ (?:can|may)\ i\ (?:help|assist)\ you
      | \bwhat\ can\ i\ (?:help|assist)\ you\ with
      | \bi(?:'|’|\ a)m\ here\ to\ (?:help|assist)
      | \b(?:glad|happy)\ to\ (?:help|assist)\ you
      | \bfeel\ free\ to\ ask\ me
      | ^\s*(?:ai|assistant)\s*:""",
    re.IGNORECASE | re.VERBOSE,
)
_SHORTEST_COPY = 5
"""Words; shorter goals turn up in honest messages by chance."""


def find_fault(text: str, scenario: Scenario, conversation: Conversation) -> str | None:
    """Why a user turn is invalid, or None.

    Returns:
        `empty`, `role_flip: ...` (speaks as the assistant, or repeats its last message), `intent_copied` (holds the
        goal of the intent word for word) or `repeated` (equals the user's turn before).
    """
    words = _words(text)
    if not words:
        return "empty" if not text.strip() else None
    if flip := _ROLE_FLIP.search(text):
        return f"role_flip: {flip.group(0).strip()!r}"
    said_by_assistant, said_by_user = conversation.said_by("assistant"), conversation.said_by("user")
    if said_by_assistant and words == _words(said_by_assistant[-1]):
        return "role_flip: repeats the assistant"
    goal = _words_of_goal(scenario.goal)
    if len(goal) >= _SHORTEST_COPY and f" {' '.join(goal)} " in f" {' '.join(words)} ":
        return "intent_copied"
    if said_by_user and words == _words(said_by_user[-1]):
        return "repeated"
    return None


@functools.lru_cache(4096)
def _words_of_goal(goal: str) -> tuple[str, ...]:
    return tuple(_words(goal))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
