"""Reads a server's answer into a reply, or into the reason why there is none; total over JSON of any shape.

Content may be a text, null, or a list of parts (Magistral, Mistral Large): text parts are joined, parts and fields of
thoughts go to `reasoning`. An answer without choices is the server's problem and may be asked for again; one whose
choice cannot be read concerns its request alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

_ENDED = (
    "", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "tool_calls", "function_call", "complete", "completed",
    "finished",
)  # fmt: skip
_CUT = ("length", "max_tokens", "model_length")
_FILTERED = (
    "content_filter", "safety", "prohibited_content", "recitation", "refusal", "blocklist", "sensitive", "spii",
    "guardrail_intervened",
)  # fmt: skip
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")
_THOUGHT_PARTS = ("think", "thought", "reason")  # in the type of a part
_TEXTS = ("thinking", "text", "reasoning", "content", "summary")
_DEPTH = 8  # of lists of parts in lists of parts
_MOST_TOKENS = 2**53  # a count above is no count


@dataclass(frozen=True, slots=True)
class Reply:
    """What was read from an answer."""

    text: str = ""
    """What the model said."""
    reasoning: str = ""
    """What it thought, where the server tells it apart."""
    cut: bool = False
    """Whether it ended at the bound of tokens."""
    fault: str | None = None
    """`refused: ...`, `unparsable: ...` or `server: ...`; None if there is a reply."""
    logprobs: tuple[float, ...] = ()
    """Natural log-probability of each token; empty if the server does not tell."""
    stop_token: int | None = None
    """Id of the token that ended it (vLLM, SGLang); None if not told."""
    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens written."""


def parse_json(content: bytes) -> Any:
    """The JSON value of an answer's body, or its text if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # also: no UTF-8, numbers of thousands of digits, nested too deeply
        return content.decode("utf-8", "replace")


def error_inside(answer: object) -> object:
    """The error that a 200 carries in place of a reply (OpenRouter and other gateways); None if there is none."""
    if not isinstance(answer, Mapping):
        return None
    choice = _first_choice(answer)
    if choice is not None:
        return choice.get("error") or None
    plain = answer if any(isinstance(answer.get(name), str) for name in ("message", "detail", "msg")) else None
    return answer.get("error") or plain


def read_reply(answer: object, *, logprobs: bool = False) -> Reply:
    """The reply in the answer of `/chat/completions` or `/completions`."""
    choice = _first_choice(answer)
    if choice is None:
        return Reply(fault="server: an answer that is not a completion")
    return replace(
        _read(choice, logprobs=logprobs),
        prompt_tokens=_count(answer, "prompt_tokens"),
        completion_tokens=_count(answer, "completion_tokens"),
    )


def _read(choice: Mapping[str, object], *, logprobs: bool) -> Reply:
    message = choice["message"] if "message" in choice else {"content": choice["text"]} if "text" in choice else None
    if not isinstance(message, Mapping):
        return Reply(fault="unparsable: the answer's choice has no message")
    content = message.get("content")
    if isinstance(content, Mapping):  # a single part
        content = [content]
    if not isinstance(content, str | list | None):
        return Reply(fault=f"unparsable: the content is a {type(content).__name__}")
    ended = choice.get("finish_reason")
    if fault := _ended_badly(ended, message):
        return Reply(fault=fault)
    values = read_logprobs(choice) if logprobs else ()
    if values is None:
        return Reply(fault="unparsable: a log-probability is not a number")
    token = choice.get("stop_reason", choice.get("matched_stop"))
    return Reply(
        text=_writable("".join(_texts(content, thoughts=False))),
        reasoning=_writable("".join([*_fields(message), *_texts(content, thoughts=True)])),
        cut=str(ended).lower() in _CUT,
        logprobs=values,
        stop_token=token if isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 else None,
    )


def read_logprobs(choice: Mapping[str, object]) -> tuple[float, ...] | None:
    """Log-probability of each token of a choice; empty if it has none, None if they cannot be read."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        return () if not logprobs else None
    values = logprobs.get("token_logprobs")
    if values is None:
        tokens = logprobs.get("content") or []
        values = [token.get("logprob") if isinstance(token, Mapping) else None for token in _list(tokens)]
    numbers = [number(value) for value in _list(values)]
    return None if None in numbers else tuple(value for value in numbers if value is not None)


def read_likelihood(answer: object, start: int, count: int) -> float | None:
    """Sum of the log-probabilities of `count` tokens from the `start`-th on; None if the answer does not have them."""
    choice = _first_choice(answer) or {}
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, Mapping) else None
    numbers = [number(value) for value in _list(values)[start : start + count]]
    known = [value for value in numbers if value is not None]
    return math.fsum(known) if len(known) == count else None


def number(value: Any) -> float | None:
    """A number that is written as one or as text; None if it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) else None


def _first_choice(answer: object) -> Mapping[str, object] | None:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else None


def _ended_badly(ended: object, message: Mapping[str, object]) -> str | None:
    """The fault that a finish reason or a refusal stands for; a reply cut in the middle by an error is no reply."""
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        return f"refused: {_writable(' '.join(refusal.split()))[:300]}"
    if isinstance(ended, str) and ended.lower() in _FILTERED:
        return "refused: the content filter stopped the reply"
    if not isinstance(ended, str | None) or (ended or "").lower() not in _ENDED + _CUT:
        return f"server: the reply ended with {_writable(str(ended)[:40])!r}, not with its last word"
    return None


def _fields(message: Mapping[str, object]) -> Iterator[str]:
    for name in _THOUGHTS:  # several names for one text
        value = message.get(name)
        if text := "".join(_all_texts([value] if isinstance(value, Mapping) else value)):
            yield text
            return


def _texts(content: object, *, thoughts: bool, depth: int = 0) -> Iterator[str]:
    """Texts of the parts of a content: what was said, or what was thought."""
    if isinstance(content, str):
        yield "" if thoughts else content
    elif isinstance(content, list) and depth < _DEPTH:
        for part in content:
            if not isinstance(part, Mapping):
                yield from _texts(part, thoughts=thoughts, depth=depth + 1)
            elif _is_thought(part) == thoughts:
                yield from _all_texts([part], depth=depth)


def _all_texts(content: object, *, depth: int = 0) -> Iterator[str]:
    """Texts of parts of whatever kind."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list) and depth < _DEPTH:
        for part in content:
            inner = next((part[name] for name in _TEXTS if name in part), None) if isinstance(part, Mapping) else part
            yield from _all_texts(inner, depth=depth + 1)


def _is_thought(part: Mapping[str, object]) -> bool:
    kind = str(part.get("type")).lower()
    return any(name in kind for name in _THOUGHT_PARTS) or "thinking" in part or part.get("thought") is True


def _count(answer: object, name: str) -> int:
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    value = number(usage.get(name)) if isinstance(usage, Mapping) else None
    return int(value) if value is not None and 0 <= value <= _MOST_TOKENS else 0


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _writable(text: str) -> str:
    """The text without lone surrogates, which could never be written to a file."""
    return text.encode("utf-8", "replace").decode("utf-8")
