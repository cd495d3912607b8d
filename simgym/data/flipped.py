"""Training data of a user simulator: logged conversations, flipped and tokenized, one JSON line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from simgym.chat_template import MASKED, flip
from simgym.data.logged import LoggedConversation, StepOutput, unusable
from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_INTENT, UNUSABLE_BY_TEMPLATE = "no intent", "cannot be rendered"


def flip_conversations(
    conversations: Iterable[LoggedConversation],
    tokenizer: PreTrainedTokenizerBase,
    output: StepOutput,
    *,
    max_tokens: int | None = None,
    advance: Callable[[], object] | None = None,
) -> None:
    """Write `{"id", "input_ids", "labels"}` for each conversation; what cannot be learned from is listed as skipped.

    `output.details` counts examples that were cut (`conversations_cut`, `turns_cut`), all tokens (`tokens`) and those
    that take part in the loss (`user_tokens`).

    Args:
        conversations: With intents.
        tokenizer: With `<|endconversation|>`; see `chat_template.add_end_token`.
        output: An open step.
        max_tokens: Longest example; longer conversations are cut at a turn boundary. None: never.
        advance: Called after each conversation.
    """
    counts = {"conversations_cut": 0, "turns_cut": 0, "tokens": 0, "user_tokens": 0}
    for logged in conversations:
        reason = unusable(logged.conversation, logged.intent) or (None if logged.intent else NO_INTENT)
        if reason is None:
            try:
                example = flip(tokenizer, logged.intent, logged.conversation.messages, max_tokens=max_tokens)
            except ConfigurationError as error:
                output.skip(logged.id, UNUSABLE_BY_TEMPLATE, str(error))
            else:
                output.keep({"id": logged.id, "input_ids": example.input_ids, "labels": example.labels})
                counts["conversations_cut"] += example.turns_cut > 0
                counts["turns_cut"] += example.turns_cut
                counts["tokens"] += len(example.input_ids)
                counts["user_tokens"] += sum(label != MASKED for label in example.labels)
        else:
            output.skip(logged.id, reason)
        if advance is not None:
            advance()
    output.details.update(counts)
