"""A sequence: one prompt and the tokens that the model adds to it, from its arrival to its last token.

Whoever asks fills in the first fields; the engine fills in the rest. A sequence brings everything that decides its own
tokens, its stop tokens included: what ends a user's turn in a chat template need not end an assistant's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from simgym.engine.errors import InvalidSetting

if TYPE_CHECKING:
    from xgrammar import GrammarMatcher

FinishReason = Literal["stop", "length"]


class Detokenizer(Protocol):
    """What stop texts are looked for with; every tokenizer of transformers is one."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> Any:
        """The text of token ids."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One token as drawn by the `Sampler`."""

    token_id: int
    """Index into the vocabulary."""
    logprob: float
    """Natural log-probability under the model, without grammar and temperature."""
    choice_logprobs: tuple[float, ...] = ()
    """Those of the sequence's `choices`; empty behind the first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What became of a sequence."""

    token_ids: tuple[int, ...]
    """Sampled tokens, the stop token included."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each under the model, without grammar and temperature."""
    choice_logprobs: tuple[float, ...]
    """Log-probability of each of the sequence's `choices` as its first token."""
    finish_reason: FinishReason | None
    """`stop`: a stop token, a stop text or the end of the grammar; `length`: `max_new_tokens`; None: see `error`."""
    error: BaseException | None
    """Why there is no completion: a `SequenceTooLarge`, or what failed twice with this sequence in the batch."""


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One prompt on its way through the engine."""

    prompt: list[int]
    """Token ids, at least one."""
    seed: int = 0
    """Key of the sequence's random numbers (Philox), >= 0."""
    temperature: float = 1.0
    """Divides the logits, >= 0; 0 picks the most likely token."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this, in (0, 1]."""
    max_new_tokens: int = 256
    """Bound of tokens that are added, >= 1."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end this sequence; the one that does is kept."""
    stop_texts: tuple[str, ...] = ()
    """Texts that end this sequence once they stand in its completion."""
    adapter: str | None = None
    """Name of an adapter in the `LoraBank`; None: the base model."""
    json_schema: str | None = None
    """JSON schema, as JSON text, of what is to be written; None: anything."""
    choices: tuple[int, ...] = ()
    """Tokens whose log-probability as the first one is asked for."""

    matcher: GrammarMatcher | None = field(default=None, init=False)
    """Where the sequence stands in its grammar."""
    token_ids: list[int] = field(default_factory=list, init=False)
    """Sampled so far."""
    logprobs: list[float] = field(default_factory=list, init=False)
    """Of the sampled tokens."""
    choice_logprobs: tuple[float, ...] = field(default=(), init=False)
    """Of `choices`, in order."""
    finish_reason: FinishReason | None = field(default=None, init=False)
    """None while tokens are to come."""
    error: BaseException | None = field(default=None, init=False)
    """What went wrong with this sequence."""
    failures: int = field(default=0, init=False)
    """Batches that it was in when they were lost."""
    cancelled: bool = field(default=False, init=False)
    """Whether its caller has given up."""
    rng: np.random.Generator = field(init=False)
    """Source of one uniform number per token."""

    def __post_init__(self) -> None:
        if not self.prompt or self.max_new_tokens < 1:
            raise InvalidSetting(
                f"Got {len(self.prompt)} prompt tokens and max_new_tokens={self.max_new_tokens}, expected one or more "
                "of each."
            )
        self.restart()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.finish_reason is not None or self.error is not None or self.cancelled

    @property
    def max_length(self) -> int:
        """Tokens of the prompt and of the longest completion."""
        return len(self.prompt) + self.max_new_tokens

    def append(self, sample: Sample, detokenizer: Detokenizer) -> None:
        """Add a token, and find out whether it is the last."""
        if self.choices and not self.token_ids:
            self.choice_logprobs = sample.choice_logprobs
        self.token_ids.append(sample.token_id)
        self.logprobs.append(sample.logprob)
        if self.matcher is not None:
            self.matcher.accept_token(sample.token_id)
        if self._stops(sample.token_id, detokenizer):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.max_new_tokens:
            self.finish_reason = "length"

    def restart(self) -> None:
        """Go back to before the first token."""
        self.token_ids, self.logprobs = [], []
        self.rng = np.random.Generator(np.random.Philox(key=self.seed))
        if self.matcher is not None:
            self.matcher.reset()

    def completion(self) -> Completion:
        """The outcome, once the sequence is done."""
        return Completion(
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            choice_logprobs=self.choice_logprobs,
            finish_reason=self.finish_reason,
            error=self.error,
        )

    def _stops(self, token_id: int, detokenizer: Detokenizer) -> bool:
        if token_id in self.stop_token_ids or (self.matcher is not None and self.matcher.is_terminated()):
            return True
        if not self.stop_texts:
            return False
        text = str(detokenizer.decode(self.token_ids, skip_special_tokens=True))
        return any(stop in text for stop in self.stop_texts)
