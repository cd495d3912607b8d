"""Intents without a language model: the topic of a conversation, by a rule that anybody can check.

An intent written by a model (`intents.py`) says what a person wanted of the whole conversation, and stays the better
one. Where there is no model that could write it, this step says no more than the topic: the key words of the opening,
in their order, each once, at most `MOST_WORDS`; function words (`prompts/function_words.txt`) are none. What a person
said later never enters. A row whose log came with a written task description keeps it behind the fixed phrase, and an
intent that has the phrase already stays as it is.

A simulator trained on such intents cannot copy its opening out of them, as it would learn to from an intent that quotes
the opening, and learns of later turns what the conversation itself says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from importlib import resources

from simgym.conversation import INTENT_PREFIX
from simgym.data.intents import LONGEST_INTENT
from simgym.data.logged import LoggedConversation, StepOutput, unusable

MOST_WORDS = 10
"""Key words of an opening that go into the intent."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def topic_intent(opening: str) -> str:
    """The intent that says what an opening is about; a bare greeting is about nothing, which the intent says."""
    words = dict.fromkeys(word.lower().replace("’", "'") for word in _WORD.findall(opening))
    keys = [word for word in words if word not in function_words() and "_" not in word][:MOST_WORDS]
    if not keys:
        return f"{INTENT_PREFIX}talk about whatever comes up"
    return f"{INTENT_PREFIX}get help with this topic: {', '.join(keys)}"[:LONGEST_INTENT]


def described_intent(description: str) -> str:
    """A written task description as an intent; one that begins with the fixed phrase is one already."""
    text = " ".join(description.split())
    if not text.startswith(INTENT_PREFIX):
        text = f"{INTENT_PREFIX}get what this describes: {text}"
    return text if len(text) <= LONGEST_INTENT else f"{text[: LONGEST_INTENT - 6]} [...]"


def with_topic(logged: LoggedConversation) -> LoggedConversation:
    """The conversation with its description as intent, or else with the topic of its opening."""
    if logged.intent.strip():
        return replace(logged, intent=described_intent(logged.intent))
    return replace(logged, intent=topic_intent(logged.conversation.messages[0].content))


def write_topics(
    conversations: Iterable[LoggedConversation],
    output: StepOutput,
    *,
    advance: Callable[[], object] | None = None,
) -> None:
    """Keep every usable conversation with an intent; `output.details` counts where the intents are from.

    Args:
        conversations: With or without intents.
        output: An open step.
        advance: Called after each conversation.
    """
    counts = {"intents_from_openings": 0, "intents_from_descriptions": 0}
    for logged in conversations:
        if reason := unusable(logged.conversation, logged.intent):
            output.skip(logged.id, reason)
        else:
            counts["intents_from_descriptions" if logged.intent.strip() else "intents_from_openings"] += 1
            output.keep(with_topic(logged).to_json())
        if advance is not None:
            advance()
    output.details.update(counts)


@cache
def function_words() -> frozenset[str]:
    """Words that say nothing of a topic, lower case."""
    text = (resources.files("simgym.data") / "prompts" / "function_words.txt").read_text(encoding="utf-8")
    return frozenset(text.split())
