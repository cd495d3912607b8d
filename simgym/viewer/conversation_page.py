"""One transcript as the page shows it: turns with the model calls behind them, and how it ended.

Whatever a model, a file or a person wrote passes through `visible`: characters that nobody can see, or that turn the
reading direction round, are written out. The page puts it into the document as text, never as HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from simgym.report.turns import ENDINGS, cut_turns, format_cut
from simgym.transcripts import ModelCall, Transcript
from simgym.visible_text import visible


def conversation_json(transcript: Transcript) -> dict[str, object]:
    """JSON values for the page.

    A call stands under the turn that it was made for. Calls for turns that nobody made (of a user who failed, or whose
    turns were used up) and those of judges come behind the last turn, under `later`.
    """
    calls: dict[tuple[str, int], list[ModelCall]] = {}
    for call in transcript.calls:
        calls.setdefault((call.role, call.turn), []).append(call)
    turns, answers = [], 0
    for message, cut in zip(transcript.conversation.messages, cut_turns(transcript), strict=True):
        behind = calls.pop((message.role, answers), [])
        turns.append(
            {
                "role": message.role,
                "text": message.content,
                "cut": "" if cut is None else format_cut(cut),
                "calls": [_call(call) for call in behind],
            }
        )
        answers += message.role == "assistant"
    value = {
        "goal": transcript.scenario.goal,
        "source": transcript.scenario.source,
        "turns": turns,
        "user_reply": _last_words(transcript),
        "later": [_call(call) for remaining in calls.values() for call in remaining],
        "end": ENDINGS[transcript.end_reason],
        "reward": transcript.reward,
        "components": list(transcript.components),
        "reasons": list(transcript.reasons),
        "fault": None if transcript.fault is None else str(transcript.fault),
        "seconds": transcript.seconds,
        "tokens": transcript.tokens(),
        "fingerprints": json.dumps(transcript.fingerprints, indent=2, ensure_ascii=False, default=dict),
    }
    return {name: shown(entry) for name, entry in value.items()}


def shown(value: Any) -> Any:
    """A JSON value whose texts are `visible`."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(name)): shown(entry) for name, entry in value.items()}
    return [shown(entry) for entry in value] if isinstance(value, list | tuple) else value


def _last_words(transcript: Transcript) -> str | None:
    """What the user said and no message holds."""
    said = transcript.conversation.said_by("user")
    words = transcript.user_reply
    return words if words and (not said or said[-1] != words) else None


def _call(call: ModelCall) -> dict[str, object]:
    return {**call.to_json(), "messages": _messages(call.prompt), "reasoning": call.reasoning}


def _messages(prompt: str) -> list[dict[str, str]] | None:
    """The messages of a prompt that is a JSON list of them, as servers are sent; None: it is one text.

    What a message holds besides its text, such as calls of tools, follows the text as JSON.
    """
    if not prompt.startswith("["):
        return None
    try:
        rows = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "role" in row for row in rows):
        return None
    return [{"role": str(row["role"]), "text": _text_of(row)} for row in rows]


def _text_of(row: Mapping[str, object]) -> str:
    content = row.get("content")
    parts = [content] if isinstance(content, str) and content else []
    rest = {name: value for name, value in row.items() if name != "role" and value not in (None, "", content)}
    if content is not None and not isinstance(content, str):
        rest["content"] = content
    if rest:
        parts.append(json.dumps(rest, indent=2, ensure_ascii=False))
    return "\n".join(parts)
