"""What a policy that cannot write chooses between: ways to answer, or replies that have been sampled already.

`Strategies` are system prompts that a frozen language model follows: the policy decides *how* the next turn is answered
(directly, briefly, in steps, by an example, with a question). Always choosing the same one is an ordinary assistant
(`MODEL+strategy_brief` on a command line), which is what a trained policy has to beat. `SampledReplies` are k replies
that the model has sampled; the policy picks one. Both work on N conversations with one model call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""The strategies that are shipped, in the order of their numbers; each is a text file `prompts/strategy_NAME.txt`."""
REPLY = SamplingParams(temperature=0.7, max_new_tokens=96)
"""How replies are sampled unless told otherwise."""

Candidates = tuple[AssistantTurn, ...]
"""Replies to choose among; empty where the choice is made before anything is written."""


class ActionSet(Protocol):
    """What the actions 0 to `num_actions` - 1 mean in a conversation that ends with a user turn."""

    num_actions: int
    """How many there are."""
    num_candidates: int
    """Replies that a policy sees before it chooses; 0 if nothing is written before the choice."""

    def propose(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[Candidates]:
        """The replies that a policy can choose among in N conversations."""
        ...

    def apply(
        self,
        conversations: Sequence[Conversation],
        candidates_N: Sequence[Candidates],
        actions: Sequence[int],
        *,
        seeds: Sequence[int],
    ) -> list[AssistantTurn]:
        """The assistant's turns after an action in each of N conversations.

        Args:
            conversations: N conversations.
            candidates_N: What `propose` gave for them.
            actions: N numbers in [0, `num_actions`).
            seeds: N seeds, for what is still to be written.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """JSON values that identify the actions; `action_set_from_json` restores them."""
        ...


class Strategies:
    """Actions are ways to answer; implements `ActionSet`."""

    num_candidates = 0

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
            sampling: How replies are sampled.

        Raises:
            ConfigurationError: there are no names, or there is no such strategy.
        """
        if not names or isinstance(names, str):
            raise ConfigurationError(f"The strategies are {names!r}, expected a list of names.")
        self.names = tuple(names)
        self.num_actions = len(self.names)
        self.prompts = tuple(read_prompt(f"strategy_{name}" if name in STRATEGIES else name) for name in self.names)
        self.writer = LanguageModelAssistant(model, sampling=sampling)

    def propose(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[Candidates]:
        return [()] * len(conversations)

    def apply(
        self,
        conversations: Sequence[Conversation],
        candidates_N: Sequence[Candidates],
        actions: Sequence[int],
        *,
        seeds: Sequence[int],
    ) -> list[AssistantTurn]:
        return self.writer.answer(conversations, [self.prompts[action] for action in actions], seeds=seeds)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "strategies",
            "names": list(self.names),
            "prompts": [text_hash(prompt) for prompt in self.prompts],
            "writer": self.writer.fingerprint(),
        }


class SampledReplies:
    """Actions pick one of k replies that were sampled with the same prompt; implements `ActionSet`."""

    def __init__(
        self, model: LanguageModelSpec = DEFAULT_MODEL, *, num_candidates: int = 4, sampling: SamplingParams = REPLY
    ) -> None:
        """Choose model and k.

        Args:
            model: Who writes; stays frozen.
            num_candidates: k, >= 2.
            sampling: How replies are sampled; at temperature 0 all would be alike.

        Raises:
            ConfigurationError: `num_candidates` is less than 2, or the temperature is 0.
        """
        if num_candidates < 2 or sampling.temperature == 0:
            raise ConfigurationError(
                f"Got {num_candidates} candidates at temperature {sampling.temperature}, expected 2 or more that can "
                "differ."
            )
        self.num_actions = self.num_candidates = num_candidates
        self.writer = LanguageModelAssistant(model, sampling=sampling)

    def propose(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[Candidates]:
        k = self.num_candidates
        turns = self.writer.respond(
            [conversation for conversation in conversations for _ in range(k)],
            seeds=[derive_seed(seed, "candidate", number) for seed in seeds for number in range(k)],
        )
        return [tuple(turns[start : start + k]) for start in range(0, len(turns), k)]

    def apply(
        self,
        conversations: Sequence[Conversation],
        candidates_N: Sequence[Candidates],
        actions: Sequence[int],
        *,
        seeds: Sequence[int],
    ) -> list[AssistantTurn]:
        """The chosen replies; each carries the model calls of all its candidates, because those cost as well."""
        turns = []
        for candidates, action in zip(candidates_N, actions, strict=True):
            calls = tuple(call for turn in candidates for call in turn.calls)
            turns.append(AssistantTurn(candidates[action].text, candidates[action].fault, calls))
        return turns

    def to_json(self) -> dict[str, Any]:
        # Saved with policies and part of their fingerprints: keeps the keys of earlier versions.
        return {"kind": "candidates", "count": self.num_candidates, "writer": self.writer.fingerprint()}


def action_set_from_json(
    value: Mapping[str, Any], model: LanguageModelSpec | None = None
) -> Strategies | SampledReplies:
    """The actions that `to_json` described.

    Args:
        value: What `to_json` gave.
        model: Who writes; None: the model named there, which has to be one that `load_language_model` knows.

    Raises:
        ConfigurationError: a strategy's text has changed since, or the description cannot be read.
    """
    try:
        writer = value["writer"]
        sampling = SamplingParams(writer["temperature"], writer["top_p"], writer["max_new_tokens"])
        spec: LanguageModelSpec = model if model is not None else writer["model"]["model"]
        if value["kind"] == "candidates":
            return SampledReplies(spec, num_candidates=value["count"], sampling=sampling)
        strategies = Strategies(spec, names=value["names"], sampling=sampling)
        stored_hashes = value["prompts"]
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"These are not the actions of a policy: {error!r} is missing or wrong.") from error
    hashes = strategies.to_json()["prompts"]
    if hashes != stored_hashes:
        changed = [
            name for name, ours, theirs in zip(strategies.names, hashes, stored_hashes, strict=True) if ours != theirs
        ]
        raise ConfigurationError(
            f"The policy was trained with another text for {', '.join(changed)}. Train it again, or restore the text."
        )
    return strategies
