"""A policy's tokens and what they say, for trainers that hand out token ids: nothing is decoded and tokenized again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from simgym.assistants.base import AssistantTurn
from simgym.chat_template import defuse, render, without_control_tokens
from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.faults import Fault, FaultKind
from simgym.language_models.base import FinishReason, Generation
from simgym.language_models.thoughts import without_reasoning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPLY = "AssistantReplyMarkerZq7"


def spoken_turn(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], ids: Sequence[int]) -> AssistantTurn:
    """What the policy says for others to hear; it is trained on its thoughts, too."""
    raw, text = str(tokenizer.decode(ids)), str(tokenizer.decode(ids, skip_special_tokens=True))
    prompt = str(tokenizer.decode(prompt_ids[-16:]))
    ended: FinishReason = "stop" if ids and ids[-1] == tokenizer.eos_token_id else "length"
    clean = partial(without_control_tokens, tokenizer)
    generation = without_reasoning(Generation(text=text, prompt=prompt, finish_reason=ended), raw=raw, clean=clean)
    said = clean(generation.text).strip()
    return AssistantTurn(said, generation.fault or (None if said else "empty"))


def full_context(detail: str) -> AssistantTurn:
    """The turn of a policy in whose context another one does not fit; it ends the conversation."""
    return AssistantTurn("", fault=str(Fault(FaultKind.CONTEXT_OVERFLOW, detail)))


def tokens_between(tokenizer: PreTrainedTokenizerBase, said: str, variables: Mapping[str, object] | None) -> list[int]:
    """The template's tokens from the end of one assistant turn to the beginning of the next, a user's turn between."""
    talk = [Message("user", "x"), Message("assistant", _REPLY), Message("user", defuse(tokenizer, said))]
    _, marker, behind = render(tokenizer, talk, "assistant", variables=variables).rpartition(_REPLY)
    if not marker:
        raise ConfigurationError("The model's chat template alters assistant turns, so no user turn can follow them.")
    return list(tokenizer(behind, add_special_tokens=False)["input_ids"])
