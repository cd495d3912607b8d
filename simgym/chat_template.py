"""The one rendering of a conversation for a language model, from either seat.

An assistant completes an open *assistant* turn; a fine-tuned user simulator completes an open *user* turn of the same
chat template, with the hidden intent as system message ("flipping the dialogue", arXiv 2605.09808). Training text and
inference prompt both come from here. No template is known by name: the open user turn is found by rendering the
conversation with a marker as next user message and cutting at the marker, and a user turn's end is the first special
token that the template writes behind it. A template that refuses a system message, or moves it to the latest turn, gets
it at the head of the first user message instead. One that asks for today's date is told a fixed one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from simgym.conversation import END_OF_CONVERSATION, Message
from simgym.errors import ConfigurationError
from simgym.reasoning import is_reasoning_mark
from simgym.template_date import needs_date, with_date
from simgym.time_limit import TookTooLong, time_limit
from simgym.tokenization import begin_within, encode_with_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MASKED = -100
"""Label of a token that takes no part in the loss, as torch and transformers have it."""
LONGEST_RENDERING, LONGEST_TEXT = 10.0, 2**25
"""Seconds that a chat template may take for a conversation, and characters that it may write."""
_MARKER = "OpenUserTurnMarkerZq7"
_known_controls: WeakKeyDictionary[object, tuple[tuple[int, int, str], _Controls]] = WeakKeyDictionary()
_keeps_system: dict[str, bool] = {}
_reads_parts: dict[str, bool] = {}
_loses: dict[str, str] = {}


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
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    next_role: Literal["assistant", "user"] | None = "assistant",
    *,
    variables: Mapping[str, object] | None = None,
) -> str:
    """The prompt text that ends where the next turn of `next_role` begins.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        messages: System message first, if there is one.
        next_role: Whose turn is left open; None: nobody's, the conversation is finished.
        variables: More variables for the template, such as `{"enable_thinking": False}`.

    Returns:
        Text with the template's special tokens written out; encode it with `add_special_tokens=False`.

    Raises:
        ConfigurationError: the tokenizer has no chat template, or its template refuses or alters the messages.
    """
    return _rendered(tokenizer, [_plain(message, tokenizer) for message in messages], next_role, variables)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes when a user has finished speaking, e.g. `<|im_end|>` or `[/INST]`.

    The first special token after the user's words; where the template uses none, all it writes before the assistant
    speaks. A model that plays the user must write this to end its turn, so it is learned in training and stops
    generation at inference.
    """
    message = Message("user", _MARKER)
    after = render(tokenizer, [message], "assistant").rpartition(_MARKER)[2]
    special = [token for token in control_tokens(tokenizer) if token in after]
    if not special:
        return after.rstrip()
    first = min(special, key=lambda token: (after.index(token), -len(token)))
    return after[: after.index(first)] + first


def turn_end_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that `turn_end` ends with, or None if the template ends a user turn by plain text."""
    end = turn_end(tokenizer)
    special = [token for token in control_tokens(tokenizer) if end.endswith(token)]
    return token_id(tokenizer, max(special, key=len)) if special else None


def flip(
    tokenizer: PreTrainedTokenizerBase, intent: str, messages: Sequence[Message], *, max_tokens: int | None = None
) -> FlippedExample:
    """Make a training example of a conversation, seen from the user's seat.

    The intent is the system message. A conversation that ends with the assistant gets a closing user turn that holds
    the end-of-conversation token alone. Loss falls on user turns only, each with the token that ends it. Tokens are
    those of the whole text; one that begins in the template's words and ends in the user's is not learned.

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
    system = _plain(Message("system", intent), tokenizer)
    talk = [_plain(Message(message.role, message.content.strip()), tokenizer) for message in messages]
    end = turn_end(tokenizer)
    spoken = [(index, message["content"] + end) for index, message in enumerate(talk) if message["role"] == "user"]
    if talk and talk[-1]["role"] == "assistant":
        spoken.append((len(talk), END_OF_CONVERSATION))
    text, spans = "", []
    for index, words in spoken:
        head = _rendered(tokenizer, [system, *talk[:index]], "user")
        if not head.startswith(text):
            raise ConfigurationError(
                "The model's chat template writes earlier turns differently once the conversation goes on, so that a "
                "conversation cannot be one training example. Use a template that only appends."
            )
        text = head + words
        spans.append((len(head), len(text)))
    ids, offsets = encode_with_offsets(tokenizer, text)
    learned = begin_within(offsets, spans)
    # where each spoken turn ends, in tokens
    ends = [sum(begin < end for begin, _ in offsets) for _, end in spans]
    turns = sum(max_tokens is None or end <= max_tokens for end in ends)
    if not turns:
        raise ConfigurationError(f"The first user turn alone is longer than {max_tokens} tokens.")
    length = ends[turns - 1]
    labels = [token if said else MASKED for token, said in zip(ids, learned, strict=True)]
    return FlippedExample(tuple(ids[:length]), tuple(labels[:length]), turns, len(spoken) - turns)


def add_end_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> int:
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
    if model is not None and (known is None or _rows(model) <= token):
        _start_row(model, token, tokenizer.eos_token_id)
    return token


def _start_row(model: PreTrainedModel, token: int, start: int | None) -> None:
    import torch

    if start is None:
        raise ConfigurationError("The tokenizer has no end-of-sequence token to start the new token's row from.")
    if _rows(model) <= token:
        model.resize_token_embeddings(token + 1, mean_resizing=False)
    weights = [layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    with torch.no_grad(), _whole(weights):
        for weight in weights:
            weight[token] = weight[start]


def _rows(model: PreTrainedModel) -> int:
    """Tokens that the embedding has rows for; ZeRO-3 leaves an empty tensor behind."""
    weight = model.get_input_embeddings().weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])


def _whole(weights: Sequence[object]) -> AbstractContextManager[object]:
    """Within it, weights that ZeRO-3 has divided among processes are whole, and what is written goes to all."""
    if not any(hasattr(weight, "ds_shape") for weight in weights):
        return nullcontext()
    unique = list({id(weight): weight for weight in weights}.values())  # tied ones are gathered once
    manager: AbstractContextManager[object] = import_module("deepspeed").zero.GatheredParameters(
        unique, modifier_rank=0
    )
    return manager


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """The id of a token, or None if the tokenizer does not have it; `get_vocab` would build the whole vocabulary."""
    index = tokenizer.convert_tokens_to_ids(token)
    return None if index is None or tokenizer.convert_ids_to_tokens(index) != token else int(index)


def defuse(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Break special tokens that are spelled out in a message, so that what somebody says cannot end their turn.

    A zero-width space goes behind the first character of each; people see no difference, the tokenizer does.
    """
    pattern = _controls(tokenizer).defused
    while pattern is not None and (broken := pattern.sub(_broken, text)) != text:  # marks may overlap
        text = broken
    return text


def without_control_tokens(tokenizer: PreTrainedTokenizerBase, text: str, kept: Sequence[str] = ()) -> str:
    """Drop control tokens from a model's output, but for those that carry meaning, such as the end of a talk.

    Of tokens that the tokenizer does not call special, those go that mark turns: a quoted `<think>` or `<tool_call>` is
    a word of the reply.
    """
    pattern = _controls(tokenizer).dropped
    if pattern is None:
        return text
    return pattern.sub(lambda token: token.group() if token.group() in kept else "", text)


def _broken(token: re.Match[str]) -> str:
    return f"{token.group()[0]}\u200b{token.group()[1:]}"


def _plain(message: Message, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    return {"role": message.role, "content": defuse(tokenizer, message.content)}


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    plain: Sequence[dict[str, str]],
    next_role: str | None,
    variables: Mapping[str, object] | None = None,
) -> str:
    """`render` for messages that are defused already."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigurationError(
            "The tokenizer has no chat template. Use an instruction-tuned model, or set tokenizer.chat_template."
        )
    if lost := _lost(tokenizer):
        raise ConfigurationError(
            f"The model's chat template leaves out or alters what the {lost} says, so the model would not read the "
            "conversation. Use another chat_template."
        )
    roles = [message["role"] for message in plain]
    if next_role == "user":
        plain = [*plain, {"role": "user", "content": _MARKER}]
    if roles and roles[0] == "system" and not _system_stays_in_front(tokenizer):
        plain = _folded(plain)
    try:
        text = _applied(tokenizer, plain, add_generation_prompt=next_role == "assistant", **(variables or {}))
    except ConfigurationError:
        raise
    except Exception as error:  # jinja2 templates raise what they like
        raise ConfigurationError(f"The model's chat template refuses the roles {roles}: {error}.") from error
    if next_role != "user":
        return text
    head, marker, _ = text.rpartition(_MARKER)
    if not marker:
        raise ConfigurationError("The model's chat template alters user messages, so no user turn can be left open.")
    return head


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tokens that mean something other than their letters: special ones, and those that the chat template writes.

    Some models (DeepSeek-R1-Distill) have role marks that their tokenizer does not call special.
    """
    return list(_controls(tokenizer).tokens)


@dataclass(frozen=True, slots=True)
class _Controls:
    """The control tokens of a tokenizer with a template."""

    tokens: tuple[str, ...]
    """All: what nobody may spell out in a message."""
    defused: re.Pattern[str] | None
    """One of them; None if there are none."""
    dropped: re.Pattern[str] | None
    """One that is no part of a reply."""


def _controls(tokenizer: PreTrainedTokenizerBase) -> _Controls:
    template = str(getattr(tokenizer, "chat_template", None) or "")
    state = len(tokenizer), len(tokenizer.all_special_tokens), template
    known = _known_controls.get(tokenizer)
    if known is None or known[0] != state:  # thousands of added tokens take a while to go through
        known = state, _find_controls(tokenizer, template)
        _known_controls[tokenizer] = known
    return known[1]


def _find_controls(tokenizer: PreTrainedTokenizerBase, template: str) -> _Controls:
    added = [token for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1]
    special = [token.content for token in added if token.special]
    written = [
        token.content for token in added if not (token.special or token.content.isspace()) and token.content in template
    ]
    marking = _turn_marks(tokenizer) if written else ""
    marks = [token for token in written if token in marking and not is_reasoning_mark(token)]
    return _Controls((*special, *written), _any_of([*special, *written]), _any_of([*special, *marks]))


def _turn_marks(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a template writes round the turns of a short conversation."""
    talk = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    written = ""
    for messages, opens in ((talk, True), (talk[:2], False)):
        written += _unless_refused(_applied, tokenizer, messages, add_generation_prompt=opens) or ""
    return written


def _unless_refused(write: Callable[..., str], *arguments: object, **variables: object) -> str | None:
    """What `_applied` or `_apply` gives; None if the template refuses, which jinja2's do by whatever they like."""
    try:
        return write(*arguments, **variables)
    except ConfigurationError:  # it does not end
        raise
    except Exception:
        return None


def _any_of(tokens: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))) if tokens else None


def _system_stays_in_front(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template writes a system message before the first user message, however long the talk."""
    template = str(tokenizer.chat_template)
    if template not in _keeps_system:
        talk = [("system", "SystemZq7"), ("user", "FirstZq7"), ("assistant", "ReplyZq7"), ("user", "SecondZq7")]
        plain = [{"role": role, "content": content} for role, content in talk]
        # refused: fold, and if the template refuses that too, `render` says so
        texts = [_unless_refused(_applied, tokenizer, plain[:length]) or "" for length in (2, 4)]
        _keeps_system[template] = all(-1 < text.find("SystemZq7") < text.find("FirstZq7") for text in texts)
    return _keeps_system[template]


def _applied(tokenizer: PreTrainedTokenizerBase, plain: Sequence[dict[str, str]], **variables: object) -> str:
    messages: Sequence[dict[str, Any]] = plain
    if _wants_parts(tokenizer):
        messages = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in plain]
    if needs_date(str(tokenizer.chat_template)):
        variables["chat_template"] = with_date(tokenizer.get_chat_template())
    return _apply(tokenizer, messages, **variables)


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, object]], **variables: object) -> str:
    """What the template writes; a program of somebody else, so its time and its text are bounded."""
    try:
        with time_limit(LONGEST_RENDERING):
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, **variables))
    except TookTooLong as error:  # whoever asks, and whatever for: a sentence
        raise ConfigurationError(
            f"The model's chat template does not end: {error}. Use another chat_template."
        ) from error
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"it writes {len(text):,} characters, more than {LONGEST_TEXT:,}")
    return text


def _lost(tokenizer: PreTrainedTokenizerBase) -> str:
    """Whose words are missing from what the template writes of a short conversation; empty if nobody's."""
    template = str(tokenizer.chat_template)
    if template not in _loses:
        talk = [("user", "First" + _MARKER), ("assistant", "Reply" + _MARKER), ("user", "Second" + _MARKER)]
        text = _unless_refused(_applied, tokenizer, [{"role": role, "content": words} for role, words in talk])
        if text is None:  # it says so when it is asked for a prompt
            return ""
        _loses[template] = next((role for role, words in talk if words not in text), "")
    return _loses[template]


def _wants_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template reads contents as lists of parts only, as those of some models that see images do."""
    template = str(tokenizer.chat_template)
    if template not in _reads_parts:
        part = {"type": "text", "text": _MARKER}
        shown = _shown(tokenizer, [part])
        _reads_parts[template] = (
            _MARKER not in _shown(tokenizer, _MARKER) and _MARKER in shown and str(part) not in shown
        )
    return _reads_parts[template]


def _shown(tokenizer: PreTrainedTokenizerBase, content: object) -> str:
    """What the template writes of a user message; empty if it refuses."""
    return _unless_refused(_apply, tokenizer, [{"role": "user", "content": content}]) or ""


def _folded(plain: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The system message at the head of the first user message."""
    system, *rest = plain
    first = next((index for index, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": system["content"]}, *rest]
    merged = {"role": "user", "content": f"{system['content']}\n\n{rest[first]['content']}"}
    return [*rest[:first], merged, *rest[first + 1 :]]
