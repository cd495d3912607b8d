"""First user turns: which can open a simulated conversation, and the scenario that is made of one.

Many real openings are a bare "Hi", which says nothing that an assistant could answer: fine to learn from, useless to
start from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from simgym.conversation import INTENT_PREFIX, Scenario
from simgym.data.logged import LoggedConversation, StepOutput, unusable
from simgym.seeding import derive_seed
from simgym.words import spaced

FEWEST_OPENING_WORDS = 5
"""A scenario's opening has at least so many."""
LONGEST_OPENING = 400
"""Characters; longer ones are mostly pasted documents."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def unusable_opening(text: str, *, longest: int = LONGEST_OPENING) -> str | None:
    """Why a first user turn cannot open a scenario, or None."""
    if len(_WORD.findall(spaced(text))) < FEWEST_OPENING_WORDS:
        return f"opening of fewer than {FEWEST_OPENING_WORDS} words"
    return f"opening of more than {longest} characters" if len(text) > longest else None


def unusable_intent(text: str) -> str | None:
    """Why a text cannot be a scenario's intent, or None."""
    if not text:
        return "no intent"
    return None if text.startswith(INTENT_PREFIX) else "intent without the fixed phrase"


def scenario_of(logged: LoggedConversation, source: str) -> Scenario:
    """The scenario of a logged conversation, which becomes its history."""
    return Scenario(
        id=logged.id,
        intent=logged.intent,
        opening=logged.conversation.messages[0].content,
        persona_seed=derive_seed(0, logged.id.removeprefix("chitchat-")),
        source=source,
        history=logged.conversation.messages,
    )


def write_scenarios(
    conversations: Iterable[LoggedConversation], output: StepOutput, *, source: str, longest: int = LONGEST_OPENING
) -> None:
    """Keep the conversations that can be scenarios; those without an intent are skipped, too."""
    for logged in conversations:
        reason = unusable(logged.conversation, logged.intent)
        reason = reason or unusable_opening(logged.conversation.messages[0].content, longest=longest)
        reason = reason or unusable_intent(logged.intent)
        if reason:
            output.skip(logged.id, reason)
        else:
            output.keep(scenario_of(logged, source).to_json())
