"""The one rendering of a conversation for a language model, from either seat.

An assistant completes an open *assistant* turn; a fine-tuned user simulator completes an open *user* turn of the same
chat template, with the hidden intent as system message ("flipping the dialogue", arXiv 2605.09808). Training text and
inference prompt both come from here. No template is known by name: the open user turn is found by rendering the
conversation with a marker as next user message and cutting at the marker, which works for every template that
writes message contents unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from simgym.conversation import Message
from simgym.errors import ConfigurationError

_MARKER = "OpenUserTurnMarkerZq7"


def render(tokenizer: Any, messages: Sequence[Message], next_role: Literal["assistant", "user"] = "assistant") -> str:
    """The prompt text that ends where the next turn of `next_role` begins.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        messages: System message first, if there is one.
        next_role: Whose turn is left open.

    Returns:
        Text with the template's special tokens written out; encode it with `add_special_tokens=False`.

    Raises:
        ConfigurationError: the tokenizer has no chat template, or its template refuses or alters the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigurationError(
            "The tokenizer has no chat template. Use an instruction-tuned model, or set tokenizer.chat_template."
        )
    plain = [{"role": message.role, "content": defuse(tokenizer, message.content)} for message in messages]
    try:
        if next_role == "assistant":
            return str(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))
        with_marker = [*plain, {"role": "user", "content": _MARKER}]
        text = str(tokenizer.apply_chat_template(with_marker, tokenize=False, add_generation_prompt=False))
    except Exception as error:  # jinja2 templates raise what they like
        raise ConfigurationError(
            f"The model's chat template refuses the roles {[message.role for message in messages]}: {error}."
        ) from error
    head, found, _ = text.rpartition(_MARKER)
    if not found:
        raise ConfigurationError("The model's chat template alters user messages, so no user turn can be left open.")
    return head


def defuse(tokenizer: Any, text: str) -> str:
    """Break special tokens that are spelled out in a message, so that what somebody says cannot end their turn.

    A zero-width space goes behind the first character of each; people see no difference, the tokenizer does.
    """
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and len(token.content) > 1 and token.content in text:
            text = text.replace(token.content, f"{token.content[0]}\u200b{token.content[1:]}")
    return text
