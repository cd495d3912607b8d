"""Conversations as a few numbers: hidden states averaged over what was asked, answered, and how the answer ends.

The reward head judges by them and the numeric observations of RL libraries are made of them. `rendered` says where the
turns stand in the text that the model reads, `pool` averages the states of one exchange, and `match` says how far the
words of the question find their like in the answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from simgym.chat_template import defuse, render
from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.language_models.transformers_lm import HiddenStates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_QUESTION, LONGEST_ANSWER = 700, 1000
"""Characters of a user's and an assistant's turn that are read: as many as in training."""
ENDING = 8
"""Tokens whose average tells how an answer ends."""

Floats = npt.NDArray[np.float32]
Span = tuple[int, int]
"""First and last character (exclusive) in the rendered conversation."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where a user turn and the assistant turn after it stand in a rendered conversation."""

    question: Span
    answer: Span


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[str, list[Exchange]]:
    """The conversation as the model reads it, and where its exchanges stand.

    Turns are shortened to `LONGEST_QUESTION` and `LONGEST_ANSWER` characters, so that no turn costs without bound. What
    the assistant says before the user does is no answer and left out.
    """
    longest = {"user": LONGEST_QUESTION, "assistant": LONGEST_ANSWER}
    short = [
        Message(message.role, defuse(tokenizer, message.content.strip()[: longest[message.role]].strip()))
        for message in itertools.dropwhile(lambda message: message.role != "user", messages)
        if message.role in longest
    ]
    if not short:
        return "", []
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
    question, answer = _sides(read, exchange, layer)
    if not len(question) or not len(answer):
        return None
    return np.stack([question.mean(0), answer.mean(0), answer[-ENDING:].mean(0)])[None]


def match(read: HiddenStates, exchange: Exchange, layer: int = 0) -> Floats | None:
    """How well question and answer fit word by word, shape (1, 3); None if their tokens were not read.

    Each token's cosine similarity with the nearest one on the other side (late interaction, as in ColBERT, arXiv
    2004.12832): the mean over the question's tokens, over the answer's, and over the quarter of the question's tokens
    that fit best. An early layer still knows the words; arguments as for `pool`.
    """
    question, answer = (
        side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6) for side in _sides(read, exchange, layer)
    )
    if not len(question) or not len(answer):
        return None
    similar = question @ answer.T
    nearest = similar.max(1)
    best = np.sort(nearest)[-max(1, len(nearest) // 4) :]
    return np.array([[nearest.mean(), similar.max(0).mean(), best.mean()]], dtype=np.float32)


def _sides(read: HiddenStates, exchange: Exchange, layer: int) -> tuple[Floats, Floats]:
    """States of the question's and the answer's tokens, shape (L, D) each."""
    starts, states = read.offsets[:, 0], read.states[layer]
    question, answer = (
        states[(starts >= first) & (starts < last)] for first, last in (exchange.question, exchange.answer)
    )
    return question, answer
