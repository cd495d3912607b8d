"""The one rendering of a conversation for a language model, from either seat.

An assistant completes an open *assistant* turn; a fine-tuned user simulator completes an open *user* turn of the same
chat template, with the hidden intent as system message ("flipping the dialogue", arXiv 2605.09808). Training text and
inference prompt both come from here. No template is known by name: the open user turn is found by rendering the
conversation with a marker as next user message and cutting at the marker, and a user turn's end is the first special
token that the template writes behind it. A template that refuses a system message, or moves it to the latest turn, gets
it at the head of the first user message instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from simgym.conversation import END_OF_CONVERSATION, Message
from simgym.errors import ConfigurationError

MASKED = -100
"""Label of a token that takes no part in the loss, as torch and transformers have it."""
_MARKER = "OpenUserTurnMarkerZq7"
_keeps_system: dict[str, bool] = {}


@dataclass(frozen=True, slots=True)
class FlippedExample:
    """One conversation as training data of a user simulator."""

    input_ids: tuple[int, ...]
    """L tokens."""
    labels: tuple[int, ...]
    """L labels: the token itself where a user speaks (the token that ends the turn included), else `MASKED`."""
    turns: int
    """User turns that are learned, the closing end-of-conversation turn included."""
    turns_cut: int
    """User turns left out because the conversation is longer than the bound."""


def render(
    tokenizer: Any, messages: Sequence[Message], next_role: Literal["assistant", "user"] | None = "assistant"
) -> str:
    """The prompt text that ends where the next turn of `next_role` begins.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        messages: System message first, if there is one.
        next_role: Whose turn is left open; None: nobody's, the conversation is finished.

    Returns:
        Text with the template's special tokens written out; encode it with `add_special_tokens=False`.

    Raises:
        ConfigurationError: the tokenizer has no chat template, or its template refuses or alters the messages.
    """
    special = _special_tokens(tokenizer)
    return _rendered(tokenizer, [_plain(message, special) for message in messages], next_role)


def turn_end(tokenizer: Any) -> str:
    """What the template writes when a user has finished speaking, e.g. `<|im_end|>` or `[/INST]`.

    The first special token after the user's words; where the template uses none, all it writes before the assistant
    speaks. A model that plays the user must write this to end its turn, so it is learned in training and stops
    generation at inference.
    """
    message = Message("user", _MARKER)
    after = render(tokenizer, [message], "assistant").rpartition(_MARKER)[2]
    special = [token for token in _special_tokens(tokenizer) if token in after]
    if not special:
        return after.rstrip()
    first = min(special, key=lambda token: (after.index(token), -len(token)))
    return after[: after.index(first)] + first


def turn_end_token(tokenizer: Any) -> int | None:
    """The special token that `turn_end` ends with, or None if the template ends a user turn by plain text."""
    end = turn_end(tokenizer)
    special = [token for token in _special_tokens(tokenizer) if end.endswith(token)]
    return token_id(tokenizer, max(special, key=len)) if special else None


def flip(tokenizer: Any, intent: str, messages: Sequence[Message], *, max_tokens: int | None = None) -> FlippedExample:
    """Make a training example of a conversation, seen from the user's seat.

    The intent is the system message. A conversation that ends with the assistant gets a closing user turn that holds
    the end-of-conversation token alone. Loss falls on user turns only, each with the token that ends it.

    Args:
        tokenizer: Has a chat template, and `<|endconversation|>` as special token (`add_end_token`).
        intent: System message.
        messages: User first, roles alternate; surrounding white space is dropped.
        max_tokens: A longer conversation is cut at the end of the last user turn that fits; None: never.

    Raises:
        ConfigurationError: the tokenizer lacks the token, its template alters messages, or not even the first user
            turn fits.
    """
    if token_id(tokenizer, END_OF_CONVERSATION) is None:
        raise ConfigurationError(f"The tokenizer has no token {END_OF_CONVERSATION}. Call add_end_token first.")
    special = _special_tokens(tokenizer)
    system = _plain(Message("system", intent), special)
    talk = [_plain(Message(message.role, message.content.strip()), special) for message in messages]
    end = turn_end(tokenizer)
    spoken = [(index, message["content"] + end) for index, message in enumerate(talk) if message["role"] == "user"]
    if talk and talk[-1]["role"] == "assistant":
        spoken.append((len(talk), END_OF_CONVERSATION))
    ids: list[int] = []
    labels: list[int] = []
    written, turns = "", 0
    for index, words in spoken:
        head = _rendered(tokenizer, [system, *talk[:index]], "user")
        if not head.startswith(written):
            raise ConfigurationError(
                "The model's chat template writes earlier turns differently once the conversation goes on, so that a "
                "conversation cannot be one training example. Use a template that only appends."
            )
        before = tokenizer(head[len(written) :], add_special_tokens=False)["input_ids"]
        said = tokenizer(words, add_special_tokens=False)["input_ids"]
        if max_tokens is not None and len(ids) + len(before) + len(said) > max_tokens:
            break
        ids += [*before, *said]
        labels += [*[MASKED] * len(before), *said]
        written, turns = head + words, turns + 1
    if not turns:
        raise ConfigurationError(f"The first user turn alone is longer than {max_tokens} tokens.")
    return FlippedExample(tuple(ids), tuple(labels), turns, len(spoken) - turns)


def add_end_token(tokenizer: Any, model: Any | None = None) -> int:
    """Make `<|endconversation|>` one special token; its embedding starts as that of the end-of-sequence token.

    Args:
        tokenizer: Changed in place. If it has the token already, the model keeps its row: give both together at first.
        model: Its embeddings grow by the row if they are too short; None: only the tokenizer is changed.

    Returns:
        The id of the token.

    Raises:
        ConfigurationError: the tokenizer has no end-of-sequence token.
    """
    known = token_id(tokenizer, END_OF_CONVERSATION)
    if known is None:
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [END_OF_CONVERSATION]}, replace_extra_special_tokens=False
        )
    token = int(tokenizer.convert_tokens_to_ids(END_OF_CONVERSATION))
    if model is not None and (known is None or model.get_input_embeddings().weight.shape[0] <= token):
        _start_row(model, token, tokenizer.eos_token_id)
    return token


def _start_row(model: Any, token: int, start: int | None) -> None:
    import torch

    if start is None:
        raise ConfigurationError("The tokenizer has no end-of-sequence token to start the new token's row from.")
    if model.get_input_embeddings().weight.shape[0] <= token:
        model.resize_token_embeddings(token + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[token] = layer.weight[start]


def token_id(tokenizer: Any, token: str) -> int | None:
    """The id of a token, or None if the tokenizer does not have it; `get_vocab` would build the whole vocabulary."""
    index = tokenizer.convert_tokens_to_ids(token)
    return None if index is None or tokenizer.convert_ids_to_tokens(index) != token else int(index)


def defuse(tokenizer: Any, text: str) -> str:
    """Break special tokens that are spelled out in a message, so that what somebody says cannot end their turn.

    A zero-width space goes behind the first character of each; people see no difference, the tokenizer does.
    """
    return _defused(text, _special_tokens(tokenizer))


def without_special_tokens(tokenizer: Any, text: str, kept: Sequence[str] = ()) -> str:
    """Drop the special tokens in a model's output, but for those that carry meaning, such as the end of a talk."""
    for token in _special_tokens(tokenizer):
        if token not in kept:
            text = text.replace(token, "")
    return text


def _defused(text: str, special: Sequence[str]) -> str:
    for token in special:
        if token in text:
            text = text.replace(token, f"{token[0]}\u200b{token[1:]}")
    return text


def _plain(message: Message, special: Sequence[str]) -> dict[str, str]:
    return {"role": message.role, "content": _defused(message.content, special)}


def _rendered(tokenizer: Any, plain: Sequence[dict[str, str]], next_role: str | None) -> str:
    """`render` for messages that are defused already."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigurationError(
            "The tokenizer has no chat template. Use an instruction-tuned model, or set tokenizer.chat_template."
        )
    roles = [message["role"] for message in plain]
    if next_role == "user":
        plain = [*plain, {"role": "user", "content": _MARKER}]
    if roles and roles[0] == "system" and not _system_stays_in_front(tokenizer):
        plain = _folded(plain)
    try:
        text = str(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=next_role == "assistant"))
    except Exception as error:  # jinja2 templates raise what they like
        raise ConfigurationError(f"The model's chat template refuses the roles {roles}: {error}.") from error
    if next_role != "user":
        return text
    head, marker, _ = text.rpartition(_MARKER)
    if not marker:
        raise ConfigurationError("The model's chat template alters user messages, so no user turn can be left open.")
    return head


def _special_tokens(tokenizer: Any) -> list[str]:
    return [
        token.content for token in tokenizer.added_tokens_decoder.values() if token.special and len(token.content) > 1
    ]


def _system_stays_in_front(tokenizer: Any) -> bool:
    """Whether the template writes a system message before the first user message, however long the talk."""
    template = str(tokenizer.chat_template)
    if template not in _keeps_system:
        talk = [("system", "SystemZq7"), ("user", "FirstZq7"), ("assistant", "ReplyZq7"), ("user", "SecondZq7")]
        plain = [{"role": role, "content": content} for role, content in talk]
        try:
            texts = [tokenizer.apply_chat_template(plain[:length], tokenize=False) for length in (2, 4)]
        except Exception:  # refused: fold, and if the template refuses that too, `render` says so
            texts = [""]
        _keeps_system[template] = all(-1 < text.find("SystemZq7") < text.find("FirstZq7") for text in texts)
    return _keeps_system[template]


def _folded(plain: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The system message at the head of the first user message."""
    system, *rest = plain
    first = next((index for index, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": system["content"]}, *rest]
    merged = {"role": "user", "content": f"{system['content']}\n\n{rest[first]['content']}"}
    return [*rest[:first], merged, *rest[first + 1 :]]
