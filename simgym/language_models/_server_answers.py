"""What is in the JSON of a server's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal


def text_of(message: Mapping[str, Any]) -> tuple[str, str]:
    """What a message says and what it thinks: a text, or parts of which some are thoughts (Mistral), and the field that
    servers with a reasoning parser use (`reasoning_content` or `reasoning`)."""
    apart = message.get("reasoning_content") or message.get("reasoning")
    thoughts = [apart] if isinstance(apart, str) else []
    content = message.get("content")
    if not isinstance(content, list):
        return content or "", "".join(thoughts)
    said = []
    for part in content:
        if isinstance(part, str):
            said.append(part)
        elif part.get("type") == "thinking":
            nested = part.get("thinking")
            thoughts.append(nested if isinstance(nested, str) else "".join(inner["text"] for inner in nested or ()))
        elif part.get("type") in ("text", "output_text"):
            said.append(part["text"])
    return "".join(said), "\n\n".join(thoughts)


def storable(text: str) -> str:
    """Without lone surrogates, which could never be written to a file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def used(answer: Any, kind: Literal["prompt_tokens", "completion_tokens"]) -> int:
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    return int((usage or {}).get(kind) or 0)


def logprobs(choice: Mapping[str, Any]) -> tuple[float, ...]:
    logprobs = choice.get("logprobs") or {}
    if "token_logprobs" in logprobs:
        return tuple(float(value) for value in logprobs["token_logprobs"] or ())
    return tuple(float(token["logprob"]) for token in logprobs.get("content") or ())
