"""The language model protocol: lists of requests in, lists of generations out.

A `Request` carries messages (or a raw prompt), sampling settings, a seed and optionally an adapter name and a JSON
schema. A `Generation` carries the text, token ids, log-probabilities and counts. Implementations: `TransformersLM`
(in process), `OpenAILM` (any OpenAI-compatible server), `ScriptedLM` (rules, for tests and docs). Simulators, judges
and assistants are written against this protocol alone.

A request that cannot be answered (context too long, server refused, time-out) is a `Generation` with a `fault`, not an
exception: one bad request must not take the other N - 1 of its batch down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.transcripts import ModelCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FinishReason = Literal["stop", "length", "fault"]
Purpose = Literal["chat", "user_turns", "likelihoods"]
"""What a model is going to be asked for: assistant turns, user turns (raw prompts), or likelihoods of texts."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one reply is drawn from a language model."""

    temperature: float = 1.0
    """Divides the logits, >= 0; 0 picks the most likely token."""
    top_p: float = 1.0
    """Nucleus: smallest set of tokens whose probability reaches this, in (0, 1]."""
    max_new_tokens: int = 256
    """Upper bound of tokens written, >= 1."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply; not part of the returned text."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ConfigurationError(f"temperature is {self.temperature}, expected >= 0. Use 0 for greedy decoding.")
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p is {self.top_p}, expected a number in (0, 1]. Use 1 to keep every token.")
        if self.max_new_tokens < 1:
            raise ConfigurationError(f"max_new_tokens is {self.max_new_tokens}, expected >= 1.")


@dataclass(frozen=True, slots=True)
class Request:
    """One reply to be generated."""

    messages: tuple[Message, ...]
    """The conversation as the model shall see it, system message first if there is one."""
    sampling: SamplingParams = SamplingParams()
    """How to draw."""
    seed: int = 0
    """Decides every sampled token, whatever else is in the batch."""
    next_role: Literal["assistant", "user"] = "assistant"
    """Whose turn the model completes; `user` is what fine-tuned user simulators do."""
    adapter: str | None = None
    """Name of a loaded LoRA adapter; None uses the base weights."""
    json_schema: Mapping[str, object] | None = None
    """When given, the reply is constrained to JSON of this schema."""
    kept_tokens: tuple[str, ...] = ()
    """Special tokens that stay in the text, such as an end-of-conversation mark; all others are dropped."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated reply, or the reason why there is none."""

    text: str
    """What is said: the reply without stop text and without the model's thoughts; empty if there is a fault."""
    token_ids: tuple[int, ...] = ()
    """Sampled token ids, the end token included if it was drawn; empty if the server does not tell."""
    logprobs: tuple[float, ...] = ()
    """Natural log-probability of each sampled token under the untempered model; empty if not asked for."""
    finish_reason: FinishReason = "stop"
    """`stop`: the model ended; `length`: the bound was hit; `fault`: see `fault`."""
    prompt: str = ""
    """The exact prompt text that was read."""
    prompt_token_ids: tuple[int, ...] = ()
    """Token ids of the prompt; empty if the server does not tell."""
    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens written."""
    fault: str | None = None
    """`context_overflow: ...`, `timeout: ...`, `server: ...`, `refused: ...`, `thoughts_only: ...` or
    `cut_while_thinking: ...`; None if all went well."""
    reasoning: str = ""
    """What a reasoning model thought before it spoke; for transcripts alone. See `simgym.reasoning`."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How probable a continuation is after a prompt."""

    logprob: float
    """Sum of natural log-probabilities of the continuation's tokens, <= 0."""
    token_count: int
    """Tokens of the continuation, >= 1."""
    prompt_tokens: int = 0
    """Tokens of the prompt; 0 if the model does not tell."""


@runtime_checkable
class LanguageModel(Protocol):
    """What simulators, judges and assistants need from a model."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Answer N requests; N generations in the same order."""
        ...

    def loglikelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Likelihood]:
        """Log-likelihood of each continuation after its prompt, both raw text.

        Raises:
            ConfigurationError: the sequences differ in length, a continuation is empty, or the model cannot score.
        """
        ...

    def fingerprint(self) -> dict[str, object]:
        """JSON values that identify weights and numerics, e.g. `{"model": ..., "revision": ..., "dtype": ...}`."""
        ...


@runtime_checkable
class CheckableModel(LanguageModel, Protocol):
    """A language model that can be asked whether it can answer now."""

    def check(self, purpose: Purpose = "chat", *, adapter: str | None = None) -> None:
        """Load the weights, or ask the server for a sign of life; no reply is generated for anybody.

        Args:
            purpose: What the model is going to be asked for.
            adapter: The adapter that requests are going to name; None: none.

        Raises:
            ConfigurationError: key, model name or adapter are not accepted, or a tokenizer is missing.
            WeightsError: the weights cannot be loaded.
            ServerUnavailable: the server does not answer.
        """
        ...


@runtime_checkable
class PromptingModel(LanguageModel, Protocol):
    """A language model that tells the exact prompt text of a request, so that a given reply can be scored."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The transformers tokenizer."""
        ...

    def prompt_text(self, request: Request) -> str:
        """What `generate` would have read."""
        ...


@runtime_checkable
class ChoosingModel(LanguageModel, Protocol):
    """A language model that tells how likely each of a few one-token replies is."""

    def choose(self, requests: Sequence[Request], choices: Sequence[str]) -> list[tuple[float, ...]]:
        """Natural log-probability of each choice as the first token of the reply, for N requests.

        Empty for a request that does not fit the context.

        Raises:
            ConfigurationError: a choice is not a single token.
        """
        ...


@runtime_checkable
class AdaptableModel(LanguageModel, Protocol):
    """A language model that LoRA adapters can be added to."""

    adapters: dict[str, str]
    """Folder or hub id of each adapter, by the name that requests use."""

    def load_adapter(self, name: str, path: str) -> None:
        """Add an adapter from a folder or hub id; usable as `Request(adapter=name)` from now on.

        Raises:
            ConfigurationError: the model has no room for it.
            WeightsError: it cannot be read, or does not fit the model.
        """
        ...


def object_schema(**properties: Mapping[str, object]) -> dict[str, object]:
    """JSON schema of an object that has these properties, all of them and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def check_pairs(prompts: Sequence[str], continuations: Sequence[str]) -> None:
    """Refuse texts to score that are not as many of either.

    Raises:
        ConfigurationError: so it is.
    """
    if len(prompts) != len(continuations):
        raise ConfigurationError(
            f"Got {len(prompts)} prompts and {len(continuations)} continuations, expected as many."
        )


def record_call(
    role: Literal["assistant", "user", "judge"],
    turn: int,
    request: Request,
    generation: Generation,
    fault: str | None = None,
) -> ModelCall:
    """The transcript's record of one request and its generation."""
    return ModelCall(
        role=role,
        turn=turn,
        seed=request.seed,
        prompt=generation.prompt,
        output=generation.text,
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        fault=fault or generation.fault,
        finish_reason=generation.finish_reason,
        reasoning=generation.reasoning,
    )
