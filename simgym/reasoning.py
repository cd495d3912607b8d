"""What a model thinks, told from what it says.

Models that reason write their thoughts before their reply, in a block that their chat template knows: `<think>` and
`</think>`, `[THINK]` and `[/THINK]`, gpt-oss's and Gemma's channels. Some templates open the block themselves, so that
the text begins inside it; some servers take the thoughts out and send them in a field of their own. Whatever the way,
the thoughts belong to the transcript and to nobody's ears: not to the other seat, not to the judge.

A block is one that stands where the reply would begin. A user who asks what `<think>` means, or a reply that quotes it
later on, is left alone. Where the prompt is not known, as behind a server, the end of a block without its beginning is
taken for that of a block which the prompt opened, if it stands on a line's end or a line of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from simgym.faults import Fault, FaultKind

_TAGS = (
    *(("<" + name + ">", "</" + name + ">") for name in ("think", "thinking", "thought", "reasoning", "seed:think")),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
)
"""Beginning and end of a block, by family of models."""
_CLOSING = {closing: opening for opening, closing in _TAGS}
_CLOSING_MARKS = "|".join(map(re.escape, _CLOSING))
_FIRST_MARK = re.compile("|".join(re.escape(mark) for pair in _TAGS for mark in pair))
_ALONE = re.compile(rf"(?:^|\n)[ \t]*(?:{_CLOSING_MARKS})|(?:{_CLOSING_MARKS})[ \t]*(?:\n|$)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w+)(?:(?!<\|message\|>).){0,200}?<\|message\|>", re.DOTALL)
_CHANNEL_ENDS = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_SAID_CHANNEL = "final"
"""The channel of gpt-oss (harmony) whose content is for the other's ears."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A model's text, taken apart."""

    text: str
    """What is said."""
    reasoning: str = ""
    """What is thought."""
    unfinished: bool = False
    """Whether the text ends while the model is still thinking."""
    divided: bool = False
    """Whether there was a block, an empty one included; if not, `text` is the text as it was."""

    def fault(self, finish_reason: Literal["stop", "length", "fault"]) -> Fault | None:
        """Why nothing is said although something was written; None if something is said, or nothing was thought."""
        if self.text.strip() or not (self.reasoning.strip() or self.unfinished):
            return None
        if finish_reason == "length":
            return Fault(
                FaultKind.CUT_WHILE_THINKING,
                "the bound of new tokens was reached before the reply began. Raise max_new_tokens, or turn thinking "
                'off by chat_template_kwargs {"enable_thinking": false}',
            )
        return Fault(FaultKind.THOUGHTS_ONLY, "the model thought and said nothing")


def split_reasoning(text: str, *, prompt: str | None = None) -> Spoken:
    """Take what a model wrote apart, control tokens spelt out.

    Args:
        text: What it wrote.
        prompt: What it wrote it behind: a block that is open at its end goes on in the text. None: it is not known.
    """
    if _CHANNEL.match(text.lstrip()):
        return _of_channels(text)
    thoughts: list[str] = []
    opening = opened_by(prompt or "")
    if opening is None and prompt is None:
        opening = _opened_unseen(text)
    while opening is not None or (opening := _opened_at(text.lstrip())) is not None:
        thought, closed, rest = text.lstrip().removeprefix(opening).partition(dict(_TAGS)[opening])
        thoughts.append(thought.strip())
        if not closed:
            return Spoken("", _joined(thoughts), unfinished=True, divided=True)
        text, opening = rest, None
    return Spoken(text.lstrip(), _joined(thoughts), divided=True) if thoughts else Spoken(text)


def _opened_at(text: str) -> str | None:
    return next((mark for mark, _ in _TAGS if text.startswith(mark)), None)


def _opened_unseen(text: str) -> str | None:
    """The beginning of the block whose end is the first mark in a text, if that end stands alone."""
    first = _FIRST_MARK.search(text)
    if first is None or first.group() not in _CLOSING:
        return None
    return _CLOSING[first.group()] if _ALONE.search(text, max(0, first.start() - 80), first.end() + 80) else None


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(filter(None, thoughts))


def is_reasoning_mark(token: str) -> bool:
    """Whether a token begins or ends a block of thoughts."""
    return any(token in pair for pair in _TAGS)


def has_marks(text: str) -> bool:
    """Whether a text may hold thoughts: a quick look, for texts that need not be taken apart."""
    return _FIRST_MARK.search(text) is not None or "<|channel|>" in text


def opened_by(prompt: str) -> str | None:
    """The beginning of a block at the end of a prompt; who quotes one in a message does not end the prompt with it."""
    end = prompt.rstrip()
    return next((opening for opening, _ in _TAGS if end.endswith(opening)), None)


def _of_channels(text: str) -> Spoken:
    """gpt-oss writes `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...`."""
    said: list[str] = []
    thoughts: list[str] = []
    for channel in _CHANNEL.finditer(text):
        end = _CHANNEL_ENDS.search(text, channel.end())
        content = text[channel.end() : end.start() if end else None].strip()
        (said if channel["name"] == _SAID_CHANNEL else thoughts).append(content)
    return Spoken("\n\n".join(said), _joined(thoughts), unfinished=not said, divided=True)
