"""What a model thinks, told from what it says.

Models that reason write their thoughts before their reply, in a block that their chat template knows: `<think>` and
`</think>` (or a tag of such a name), `[THINK]` and `[/THINK]`, gpt-oss's and Gemma's channels; some put a frame round
their reply, too, `<answer>` and `</answer>`. Some templates open the block themselves, so that
the text begins inside it; some servers take the thoughts out and send them in a field of their own. Whatever the way,
the thoughts belong to the transcript and to nobody's ears: not to the other seat, not to the judge.

A block is one that stands where the reply would begin. A user who asks what `<think>` means, or a reply that quotes it
later on, is left alone. Where the prompt is not known, as behind a server, the end of a block without its beginning is
taken for that of a block which the prompt opened, if it stands on a line's end, a line of its own, or right behind the
end of a sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from simgym.faults import Fault, FaultKind

_NAMED = r"[\w:]{0,20}?(?:think(?:ing)?|thoughts?|reasoning|monologue|scratchpad)"
"""Names of tags: `<think>`, `<seed:think>`, `<longcat_think>`, `<antThinking>`, `<inner_thoughts>`."""
_MARKS = {
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<|think|>": "<|end|>",
    "◁think▷": "◁/think▷",
    "<|channel>thought": "<channel|>",
}
"""Beginning and end of a block, by family of models, where they are no tags."""
_CLOSED_BY = {closing: opening for opening, closing in _MARKS.items() if opening != "<|think|>"}
_OPENING = re.compile(rf"<({_NAMED})\s*>|{'|'.join(map(re.escape, _MARKS))}", re.IGNORECASE)
_CLOSING = re.compile(rf"</({_NAMED})\s*>|{'|'.join(map(re.escape, _CLOSED_BY))}", re.IGNORECASE)
_FIRST_MARK = re.compile(f"(?P<opening>{_OPENING.pattern})|(?P<closing>{_CLOSING.pattern})", re.IGNORECASE)
_ALONE_BEFORE = re.compile(r"(?:^|\n)[ \t]*\Z|[.!?。！？…)]\Z")
_ALONE_BEHIND = re.compile(r"[ \t]*(?:\n|\Z)")
_ANSWER = re.compile(
    r"<(?P<tag>answer|response|output|solution)>(?P<tagged>.*?)(?:</(?P=tag)>\s*)?\Z|"
    r"<\|START_RESPONSE\|>(?P<cohere>.*?)(?:<\|END_RESPONSE\|>.*)?\Z|"
    r"<\|begin_of_solution\|>(?P<open>.*?)(?:<\|end_of_solution\|>.*)?\Z|"
    r"<\|begin\|>assistant<\|content\|>(?P<solar>.*)\Z",
    re.DOTALL | re.IGNORECASE,
)
"""What some families put round all that they say behind their thoughts."""
_PLAIN = re.compile(
    r"here(?:'s| is) my thought process:(?P<granite>.*?)here(?:'s| is) my response:(?P<granite_said>.*)\Z|"
    r"analysis(?P<harmony>.*?)assistantfinal(?P<harmony_said>.*)\Z",
    re.DOTALL | re.IGNORECASE,
)
"""Families that mark both in plain words: Granite, and gpt-oss whose control tokens were dropped."""
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
    if (plain := _PLAIN.match(text.lstrip())) is not None:
        thought, said = (part for part in plain.groups() if part is not None)
        return Spoken(said.strip(), thought.strip(), divided=True)
    thoughts: list[str] = []
    opening = opened_by(prompt or "")
    if opening is None and prompt is None:
        opening = _opened_unseen(text)
    while opening is not None or (opening := _opened_at(text.lstrip())) is not None:
        block = text.lstrip().removeprefix(opening)
        closing = _closing_of(opening).search(block)
        thoughts.append(block[: closing.start()].strip() if closing else block.strip())
        if closing is None:
            return Spoken("", _joined(thoughts), unfinished=True, divided=True)
        text, opening = block[closing.end() :], None
    return Spoken(_unwrapped(text.lstrip()), _joined(thoughts), divided=True) if thoughts else Spoken(text)


def _opened_at(text: str) -> str | None:
    opening = _OPENING.match(text)
    return opening.group() if opening else None


def _closing_of(opening: str) -> re.Pattern[str]:
    """What ends a block."""
    closing = next((end for begin, end in _MARKS.items() if begin.lower() == opening.lower()), None)
    if closing is not None:
        return re.compile(re.escape(closing), re.IGNORECASE)
    return re.compile(rf"</{re.escape(opening[1:-1].strip())}\s*>", re.IGNORECASE)


def _opened_unseen(text: str) -> str | None:
    """The beginning of the block whose end is the first mark in a text, if that end stands alone."""
    first = _FIRST_MARK.search(text)
    if first is None or first["opening"] is not None:
        return None
    before = text[max(0, first.start() - 80) : first.start()]
    if _ALONE_BEFORE.search(before) is None and _ALONE_BEHIND.match(text, first.end()) is None:
        return None
    closing = first.group()
    return next((begin for end, begin in _CLOSED_BY.items() if end.lower() == closing.lower()), f"<{closing[2:]}")


def _unwrapped(text: str) -> str:
    """What is said behind the thoughts, out of the frame that some families put round it."""
    frame = _ANSWER.match(text)
    if frame is None:
        return text
    return next((said for name, said in frame.groupdict().items() if said and name != "tag"), "").strip()


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(filter(None, thoughts))


def is_reasoning_mark(token: str) -> bool:
    """Whether a token begins or ends a block of thoughts."""
    return _OPENING.fullmatch(token) is not None or _CLOSING.fullmatch(token) is not None


def has_marks(text: str) -> bool:
    """Whether a text may hold thoughts: a quick look, for texts that need not be taken apart."""
    return _FIRST_MARK.search(text) is not None or "<|channel|>" in text or _PLAIN.match(text.lstrip()) is not None


def opened_by(prompt: str) -> str | None:
    """The beginning of a block at the end of a prompt; who quotes one in a message does not end the prompt with it."""
    end = prompt.rstrip()[-80:]
    last = next((opening for opening in _OPENING.finditer(end) if opening.end() == len(end)), None)
    return last.group() if last else None


def _of_channels(text: str) -> Spoken:
    """gpt-oss writes `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...`."""
    said: list[str] = []
    thoughts: list[str] = []
    for channel in _CHANNEL.finditer(text):
        end = _CHANNEL_ENDS.search(text, channel.end())
        content = text[channel.end() : end.start() if end else None].strip()
        (said if channel["name"] == _SAID_CHANNEL else thoughts).append(content)
    return Spoken("\n\n".join(said), _joined(thoughts), unfinished=not said, divided=True)
