"""The tokenizer's side of a model in this process: requests become token ids, and what was drawn becomes a reply.

Whoever runs the model (`simgym.engine`, vLLM) sees token ids alone. Here is what both have to agree on: the chat
template and the date that it is told, where a turn of either role ends, which tokens a continuation consists of, and
how sampled tokens are read: control tokens and thoughts taken out, stop texts cut off.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from simgym.chat_template import control_tokens, render, token_id, turn_end, turn_end_token, without_control_tokens
from simgym.conversation import END_OF_CONVERSATION
from simgym.errors import ConfigurationError, WeightsError
from simgym.language_models.base import Generation, Request, check_pairs
from simgym.language_models.thoughts import without_reasoning
from simgym.template_date import DEFAULT_DATE, needs_date, with_date
from simgym.tokenization import encode, encode_around, next_token
from simgym.transcripts import text_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a model wrote behind a prompt, as tokens."""

    token_ids: tuple[int, ...]
    """Sampled tokens, the stop token included."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each under the untempered model."""
    finish_reason: Literal["stop", "length"]
    """`stop`: a stop token, a stop text or the end of the grammar; `length`: the bound was hit."""


class ChatTokens:
    """A tokenizer with a chat template, and the tokenizers of adapters that know more tokens."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_tokens: Sequence[int | None],
        chat_template: str | None,
        variables: Mapping[str, object],
        date: str,
    ) -> None:
        """Prepare the tokenizer, which is changed.

        Args:
            tokenizer: The model's tokenizer of transformers.
            end_tokens: What the model's generation settings say that a reply ends with; the tokenizer's own end token
                is one of them anyway.
            chat_template: Template instead of the tokenizer's own; None: that.
            variables: For the template, e.g. `{"enable_thinking": False}`.
            date: What a template that asks for today's date is told.
        """
        self.tokenizer = tokenizer
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        if needs_date(str(tokenizer.chat_template)):
            tokenizer.chat_template = with_date(tokenizer.get_chat_template(), date)
        # role marks that the tokenizer does not know for special tokens, and that decoding therefore leaves in a text
        self._writes_plain_marks = bool(set(control_tokens(tokenizer)) - set(tokenizer.all_special_tokens))
        self._variables = variables
        self._turn_end = turn_end(tokenizer) if tokenizer.chat_template else ""
        self._turn_end_token = turn_end_token(tokenizer) if tokenizer.chat_template else None
        ends = (*end_tokens, tokenizer.eos_token_id)
        self.end_token_ids = frozenset(int(token) for token in ends if token is not None)
        candidates: tuple[int | None, ...] = (tokenizer.bos_token_id, *sorted(self.stop_token_ids("user")), 0)
        self.start_token = next(int(token) for token in candidates if token is not None)
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}

    def tokenizer_of(self, adapter: str | None) -> PreTrainedTokenizerBase:
        """The tokenizer of an adapter, which may know more tokens than the model's own."""
        return self._tokenizers.get(adapter, self.tokenizer) if adapter is not None else self.tokenizer

    def tokenizer_with(self, tokens: Mapping[str, int]) -> PreTrainedTokenizerBase:
        """A copy of the tokenizer that knows further tokens.

        Raises:
            WeightsError: they get other ids than the adapter that they belong to was trained with.
        """
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
        for token, expected in tokens.items():
            if (actual := tokenizer.convert_tokens_to_ids(token)) != expected:
                raise WeightsError(
                    f"The adapter calls {token} token {expected}, but for this base model it is {actual}. Is the "
                    "adapter for another base?"
                )
        return tokenizer

    def keep_tokenizer(self, adapter: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Use a tokenizer for requests to an adapter from now on."""
        self._tokenizers[adapter] = tokenizer

    def prompt(self, request: Request) -> str:
        """The text that the model reads for a request."""
        return render(
            self.tokenizer_of(request.adapter), request.messages, request.next_role, variables=self._variables
        )

    def encode(self, text: str, adapter: str | None = None) -> list[int]:
        """Token ids of a text in which special tokens are written out."""
        return encode(self.tokenizer_of(adapter), text)

    def encode_pairs(
        self, prompts: Sequence[str], continuations: Sequence[str], adapter: str | None, *, longest: int
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of prompts and what is scored behind them, tokenized together.

        Args:
            prompts: N texts; an empty one stands for the start token.
            continuations: N texts; a token that stands in both counts towards the continuation.
            adapter: Whose tokenizer.
            longest: Tokens that a pair may have; of a longer prompt the end is kept, next to what is scored.

        Raises:
            ConfigurationError: not as many of either, or a continuation is empty or longer than the context.
        """
        check_pairs(prompts, continuations)
        pairs = []
        for index, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
            head, tail = encode_around(self.tokenizer_of(adapter), prompt, continuation)
            head = head or [self.start_token]
            if not tail:
                raise ConfigurationError(f"Continuation {index} is empty. There is nothing to score.")
            if len(tail) >= longest:
                raise ConfigurationError(
                    f"Continuation {index} has {len(tail)} tokens, as many as the context of {longest} or more. "
                    "Shorten it."
                )
            pairs.append((head[max(0, len(head) + len(tail) - longest) :], tail))
        return pairs

    def choices(self, prompt: str, choices: Sequence[str], adapter: str | None) -> tuple[int, ...]:
        """The token of each choice behind a prompt.

        Raises:
            ConfigurationError: one of them is not a single token there.
        """
        tokens = []
        for choice in choices:
            token = next_token(self.tokenizer_of(adapter), prompt, choice)
            if token is None:
                raise ConfigurationError(
                    f"{choice!r} is not one token behind this model's prompt. Choose other replies."
                )
            tokens.append(token)
        return tuple(tokens)

    def stop_token_ids(self, role: Literal["assistant", "user"], adapter: str | None = None) -> frozenset[int]:
        """Tokens that end a turn of a role.

        An assistant's turn ends where the model's generation settings and its tokenizer say. A user's ends there, too,
        where the chat template ends one, and at the end of the conversation.
        """
        if role == "assistant":
            return self.end_token_ids
        own = {self._turn_end_token, token_id(self.tokenizer_of(adapter), END_OF_CONVERSATION)}
        return self.end_token_ids | {token for token in own if token is not None}

    def stop_texts(self, request: Request) -> tuple[str, ...]:
        """Texts that end a reply: those asked for, and the end of a user's turn if no token stands for it."""
        if request.next_role == "user" and self._turn_end and self._turn_end_token is None:
            return (*request.sampling.stop, self._turn_end)
        return request.sampling.stop

    def generation(self, request: Request, prompt: str, prompt_ids: Sequence[int], drawn: Drawn) -> Generation:
        """What was drawn, as text."""
        tokenizer = self.tokenizer_of(request.adapter)
        raw, plain = (str(tokenizer.decode(list(drawn.token_ids), skip_special_tokens=skip)) for skip in (False, True))
        generation = Generation(
            text=raw if request.kept_tokens else plain,
            token_ids=drawn.token_ids,
            logprobs=drawn.logprobs,
            finish_reason=drawn.finish_reason,
            prompt=prompt,
            prompt_token_ids=tuple(prompt_ids),
            prompt_tokens=len(prompt_ids),
            completion_tokens=len(drawn.token_ids),
        )
        clean = partial(without_control_tokens, tokenizer, kept=request.kept_tokens)
        generation = without_reasoning(generation, raw=raw, clean=clean)
        said = clean(generation.text) if request.kept_tokens or self._writes_plain_marks else generation.text
        for stop in self.stop_texts(request):
            said = said.split(stop)[0]
        return replace(generation, text=said)


def overflow(prompt: str, prompt_ids: Sequence[int], problem: str) -> Generation:
    """The fault of a request that does not fit."""
    return failed(prompt, prompt_ids, f"context_overflow: {problem}")


def failed(prompt: str, prompt_ids: Sequence[int], fault: str) -> Generation:
    """The generation of a request that gave none."""
    return Generation(
        text="",
        finish_reason="fault",
        prompt=prompt,
        prompt_token_ids=tuple(prompt_ids),
        prompt_tokens=len(prompt_ids),
        fault=fault,
    )


def prompt_fingerprint(template: str | None, variables: Mapping[str, object], date: str) -> dict[str, object]:
    """What of a model's fingerprint decides the text of its prompts; what is left at its default has no key.

    Args:
        template: The chat template, if it is at hand.
        variables: For the template.
        date: What it is told.
    """
    dated = date != DEFAULT_DATE or needs_date(template or "")
    return {
        **({"chat_template": text_hash(template)} if template else {}),
        **({"chat_template_kwargs": dict(variables)} if variables else {}),
        **({"date": date} if dated else {}),
    }
