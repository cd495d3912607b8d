"""Conversations as a few vectors: hidden states averaged over what was asked, answered, and how the answer ends.

The reward head judges by them and the numeric observations of RL libraries are made of them. `rendered` says where the
turns stand in the text that the model reads, `pool` averages the states of one exchange.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.flip import defuse, render
from simgym.language_models.transformers_lm import HiddenStates

LONGEST_QUESTION, LONGEST_ANSWER = 700, 1000
"""Characters of a user's and an assistant's turn that are read: as many as in training."""
ENDING = 8
"""Tokens whose average tells how an answer ends."""

Floats = np.ndarray[Any, np.dtype[np.float32]]
Span = tuple[int, int]
"""First and last character (exclusive) in the rendered conversation."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where a user turn and the assistant turn after it stand in a rendered conversation."""

    question: Span
    answer: Span


def rendered(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, list[Exchange]]:
    """The conversation as the model reads it, and where its exchanges stand.

    Turns are shortened to `LONGEST_QUESTION` and `LONGEST_ANSWER` characters, so that no turn costs without bound. What
    the assistant says before the user does is no answer and left out.
    """
    longest = {"user": LONGEST_QUESTION, "assistant": LONGEST_ANSWER}
    short = [
        Message(one.role, defuse(tokenizer, one.content.strip()[: longest[one.role]]))
        for one in itertools.dropwhile(lambda one: one.role != "user", messages)
        if one.role in longest
    ]
    text = render(tokenizer, short, None)
    spans: list[Span] = []
    for number, message in enumerate(short):
        begin = len(render(tokenizer, short[:number], message.role))  # type: ignore[arg-type]  # no system message here
        if not text.startswith(message.content, begin):
            raise ConfigurationError("The base model's chat template alters messages, so that turns cannot be found.")
        spans.append((begin, begin + len(message.content)))
    question: Span = (0, 0)
    exchanges = []
    for message, span in zip(short, spans, strict=True):
        if message.role == "assistant":
            exchanges.append(Exchange(question, span))
        else:
            question = span
    return text, exchanges


def pool(read: HiddenStates, exchange: Exchange, layer: int = 0) -> Floats | None:
    """Mean states of question, answer and the answer's end, shape (1, 3, D); None if their tokens were not read.

    Args:
        read: States of the rendered conversation.
        exchange: Where to look.
        layer: Which of the layers that were read.
    """
    starts = read.offsets[:, 0]
    states = read.states[layer]
    question, answer = (
        states[(starts >= first) & (starts < last)] for first, last in (exchange.question, exchange.answer)
    )
    if not len(question) or not len(answer):
        return None
    return np.stack([question.mean(0), answer.mean(0), answer[-ENDING:].mean(0)])[None]
