"""What a policy that cannot write chooses between: ways to answer, or replies that are there already.

`Strategies` are system prompts that a frozen language model follows: the policy decides *how* the next turn is answered
(directly, briefly, in steps, by an example, with a question). Always choosing the same one is an ordinary assistant
(`MODEL+strategy_brief` on a command line), which is what a trained policy has to beat. `Candidates` are k replies that
the model has drawn; the policy picks one. Both work on N conversations with one model call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from simgym.assistants.base import AssistantTurn
from simgym.assistants.language_model_assistant import LanguageModelAssistant, read_prompt
from simgym.conversation import Conversation
from simgym.errors import ConfigurationError
from simgym.language_models.base import SamplingParams
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.seeding import derive_seed
from simgym.transcripts import text_hash

STRATEGIES = ("direct", "brief", "steps", "example", "clarify", "confirm")
"""The strategies that are shipped, in the order of their numbers; each is a text `prompts/strategy_NAME.txt`."""
REPLY = SamplingParams(temperature=0.7, max_new_tokens=96)
"""How replies are drawn unless told otherwise."""

Offer = tuple[AssistantTurn, ...]
"""Replies to choose among; empty if the choice is made before anything is written."""


class Choices(Protocol):
    """What the numbers 0 to `count` - 1 mean in a conversation that ends with a user turn."""

    count: int
    """How many there are."""
    seen: int
    """Replies that are shown with each offer; 0 if there are none to see."""

    def offer(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[Offer]:
        """What can be chosen in N conversations, before the choice."""
        ...

    def take(
        self,
        conversations: Sequence[Conversation],
        offers: Sequence[Offer],
        chosen: Sequence[int],
        seeds: Sequence[int],
    ) -> list[AssistantTurn]:
        """The assistant's turns of N conversations in which numbers were chosen."""
        ...

    def to_json(self) -> dict[str, Any]:
        """JSON values that identify the choices; `choices_from_json` makes them again."""
        ...


class Strategies:
    """Choose how to answer; implements `Choices`."""

    seen = 0

    def __init__(
        self,
        model: LanguageModelSpec = DEFAULT_MODEL,
        *,
        names: Sequence[str] = STRATEGIES,
        sampling: SamplingParams = REPLY,
    ) -> None:
        """Choose model and strategies.

        Args:
            model: Who writes; stays frozen.
            names: Strategies by name (`brief`), or paths of text files; at least one.
            sampling: How replies are drawn.

        Raises:
            ConfigurationError: no names, or there is no such strategy.
        """
        if not names or isinstance(names, str):
            raise ConfigurationError(f"The strategies are {names!r}, expected a list of names.")
        self.names = tuple(names)
        self.count = len(self.names)
        self.prompts = tuple(read_prompt(f"strategy_{name}" if name in STRATEGIES else name) for name in self.names)
        self.writer = LanguageModelAssistant(model, sampling=sampling)

    def offer(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[Offer]:
        return [()] * len(conversations)

    def take(
        self,
        conversations: Sequence[Conversation],
        offers: Sequence[Offer],
        chosen: Sequence[int],
        seeds: Sequence[int],
    ) -> list[AssistantTurn]:
        return self.writer.answer(conversations, [self.prompts[number] for number in chosen], seeds=seeds)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "strategies",
            "names": list(self.names),
            "prompts": [text_hash(prompt) for prompt in self.prompts],
            "writer": self.writer.fingerprint(),
        }


class Candidates:
    """Choose among k replies that were drawn with the same prompt; implements `Choices`."""

    def __init__(
        self, model: LanguageModelSpec = DEFAULT_MODEL, *, count: int = 4, sampling: SamplingParams = REPLY
    ) -> None:
        """Choose model and k.

        Args:
            model: Who writes; stays frozen.
            count: k, >= 2.
            sampling: How replies are drawn; at temperature 0 all would be alike.

        Raises:
            ConfigurationError: `count` is less than 2, or the temperature 0.
        """
        if count < 2 or sampling.temperature == 0:
            raise ConfigurationError(
                f"Got {count} candidates at temperature {sampling.temperature}, expected 2 or more that can differ."
            )
        self.count = self.seen = count
        self.writer = LanguageModelAssistant(model, sampling=sampling)

    def offer(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[Offer]:
        drawn = self.writer.respond(
            [conversation for conversation in conversations for _ in range(self.count)],
            seeds=[derive_seed(seed, "candidate", number) for seed in seeds for number in range(self.count)],
        )
        return [tuple(drawn[row : row + self.count]) for row in range(0, len(drawn), self.count)]

    def take(
        self,
        conversations: Sequence[Conversation],
        offers: Sequence[Offer],
        chosen: Sequence[int],
        seeds: Sequence[int],
    ) -> list[AssistantTurn]:
        """The chosen replies; the calls of those that were not chosen are recorded with them, for they cost, too."""
        turns = []
        for offer, number in zip(offers, chosen, strict=True):
            calls = tuple(call for turn in offer for call in turn.calls)
            turns.append(AssistantTurn(offer[number].text, offer[number].fault, calls))
        return turns

    def to_json(self) -> dict[str, Any]:
        return {"kind": "candidates", "count": self.count, "writer": self.writer.fingerprint()}


def choices_from_json(value: dict[str, Any], model: LanguageModelSpec | None = None) -> Strategies | Candidates:
    """The choices that `to_json` described.

    Args:
        value: What `to_json` gave.
        model: Who writes; None: the model that is named, which has to be one that `load_language_model` knows.

    Raises:
        ConfigurationError: a strategy's text has changed since, or the description cannot be read.
    """
    try:
        writer = value["writer"]
        sampling = SamplingParams(writer["temperature"], writer["top_p"], writer["max_new_tokens"])
        spec: LanguageModelSpec = model if model is not None else writer["model"]["model"]
        if value["kind"] == "candidates":
            return Candidates(spec, count=value["count"], sampling=sampling)
        made = Strategies(spec, names=value["names"], sampling=sampling)
        written = value["prompts"]
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"These are no choices of a policy: {error!r} is missing or wrong.") from error
    now_N = made.to_json()["prompts"]
    if now_N != written:
        changed = [name for name, now, then in zip(made.names, now_N, written, strict=True) if now != then]
        raise ConfigurationError(
            f"The policy was trained with other words for {', '.join(changed)}. Train it again, or restore the texts."
        )
    return made
