"""Why a conversation ended, in words, and which of its turns were cut because they had reached their token limit.

A turn that stops in the middle of a sentence reads like a weakness of its speaker; often the limit was too low. Only
transcripts that record why a call ended can tell; of older ones nothing is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from simgym.transcripts import ModelCall, Transcript

ENDINGS = {
    "user_end": "the user ended it",
    "turn_limit": "the turn limit was reached",
    "context_overflow": "it outgrew the model's context",
    "simulator_fault": "the simulated user failed",
    "judge_fault": "the judge failed",
    "assistant_fault": "the assistant failed",
}
"""End reasons in words."""


def cut_turns(transcript: Transcript) -> list[int | None]:
    """Tokens at which each message was cut, in the order of the messages; None for a message that was not."""
    calls: dict[tuple[str, int], list[ModelCall]] = {}
    for call in transcript.calls:
        if call.fault is None:
            calls.setdefault((call.role, call.turn), []).append(call)
    spoken: Counter[str] = Counter()
    cuts = []
    for message in transcript.conversation.messages:
        cuts.append(_cut_at(calls.get((message.role, spoken[message.role]), ()), message.content))
        spoken[message.role] += 1
    return cuts


def format_cut(tokens: int) -> str:
    """`cut at the limit of 48 tokens`."""
    return f"cut at the limit of {tokens} token{'' if tokens == 1 else 's'}"


def _cut_at(calls: Sequence[ModelCall], content: str) -> int | None:
    """Of the calls for one turn the one that was said counts: there may be several candidates."""
    said = [call for call in calls if call.output.strip() == content.strip()]
    if not said and len(calls) == 1:
        said = list(calls)
    return said[-1].completion_tokens if said and said[-1].finish_reason == "length" else None
