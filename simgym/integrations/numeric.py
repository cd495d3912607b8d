"""A conversation in numbers, for RL libraries that take no text: `Discrete` actions, `Box` observations.

    env = gym.make("UserSim-Persona-v0", max_turns=2)
    env = EmbedObservation(ChoiceActions(env, Strategies()))

`ChoiceActions` turns the number of a choice (see `simgym.assistants.choices`) into an utterance, written by a frozen
language model; `StrategyActions` and `CandidateActions` are it with either kind of choice. `EmbedObservation` gives the
hidden states of the shared base model, averaged over the user's latest turn and over each candidate reply. The batched
form for stable-baselines3 is in `simgym.integrations.stable_baselines3` and uses the same two mechanisms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from simgym.assistants.base import AssistantTurn
from simgym.assistants.choices import Candidates, Choices, Offer, Strategies
from simgym.conversation import Conversation, Message
from simgym.envs.conversation_env import ConversationEnv
from simgym.errors import ConfigurationError
from simgym.language_models.loading import LanguageModelSpec, load_language_model, unwrapped
from simgym.language_models.pooling import Floats, pool, rendered
from simgym.language_models.transformers_lm import TransformersLM
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.simulation import Dialogue

TextEnv = gymnasium.Env[dict[str, Any], Any]
"""A simgym environment, wrapped or not."""
_CONTEXT = 3
"""Messages that are read for an observation: the user's latest turn and the exchange before it."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A fixed linear map that makes hidden states of size D a few numbers of about unit size."""

    mean: Floats
    """Shape (D,)."""
    components: Floats
    """Shape (K, D), K directions, scaled."""

    def __call__(self, states: Floats) -> Floats:
        """Shape (..., D) to (..., K)."""
        found: Floats = ((states - self.mean) @ self.components.T).astype(np.float32)
        return found

    @classmethod
    def fit(cls, states: Floats, size: int) -> Projection:
        """The first `size` principal components, whitened.

        Args:
            states: Shape (N, D), N > `size`.
            size: K.

        Raises:
            ConfigurationError: there are too few states.
        """
        from sklearn.decomposition import PCA

        if len(states) <= size:
            raise ConfigurationError(f"Got {len(states)} texts for {size} components, expected more texts than that.")
        fitted = PCA(size, svd_solver="full").fit(states)
        scaled = fitted.components_ / np.sqrt(fitted.explained_variance_ + 1e-8)[:, None]
        return cls(fitted.mean_.astype(np.float32), scaled.astype(np.float32))


class ConversationFeatures:
    """Conversations that end with a user turn as vectors, N at a time, in one forward pass that ends half-way.

    A vector holds, in this order: the user's latest turn (K numbers), how many turns the assistant has had as a share
    of `max_turns`, the logarithm of the length of the user's turn, and K numbers for each reply on offer.
    """

    def __init__(
        self,
        model: LanguageModelSpec = DEFAULT_MODEL,
        *,
        layer: int = 12,
        max_turns: int = 5,
        projection: Projection | None = None,
    ) -> None:
        """Choose what is read.

        Args:
            model: A model in process; shares its weights with whoever uses the same.
            layer: Which layer's output is averaged.
            max_turns: Of the environment.
            projection: See `fitted`; None: the hidden states as they are, K = D.
        """
        self.model_spec = model
        self.layer = layer
        self.max_turns = max_turns
        self.projection = projection

    def fitted(
        self, conversations: Sequence[Conversation], *, offers: Sequence[Offer] | None = None, size: int = 16
    ) -> ConversationFeatures:
        """The same with a projection to K = `size` numbers.

        Args:
            conversations: They end with a user turn.
            offers: Replies to each; the projection is fitted on them. None: it is fitted on the users' turns.
            size: K.

        Raises:
            ConfigurationError: there are too few texts.
        """
        states = self._states(conversations, offers or [()] * len(conversations))
        fitted_on = np.concatenate([one[1:] if offers else one[:1] for one in states])
        return ConversationFeatures(
            self.model_spec,
            layer=self.layer,
            max_turns=self.max_turns,
            projection=Projection.fit(fitted_on, size),
        )

    def space(self, choices: Choices) -> spaces.Box:
        """Unbounded float32 vector for conversations with these choices."""
        each = len(self.projection.components) if self.projection is not None else self._width()
        return spaces.Box(-np.inf, np.inf, (each * (1 + choices.seen) + 2,), np.float32)

    def __call__(self, conversations: Sequence[Conversation], offers: Sequence[Offer]) -> Floats:
        """Vectors of N conversations, shape (N, size of the space), finite."""
        if not conversations:
            return np.zeros((0, 0), dtype=np.float32)
        rows = []
        for conversation, states in zip(conversations, self._states(conversations, offers), strict=True):
            small = self.projection(states) if self.projection is not None else states
            said = conversation.said_by("user")
            numbers = [
                min(1.0, len(conversation.said_by("assistant")) / self.max_turns),
                np.log1p(len(said[-1]) if said else 0) / 5,
            ]
            rows.append(np.concatenate([small[0], numbers, *small[1:]]))
        return np.nan_to_num(np.stack(rows).astype(np.float32))

    def to_json(self) -> dict[str, Any]:
        """JSON values that identify the features; the projection's numbers go elsewhere."""
        return {"layer": self.layer, "max_turns": self.max_turns, "model": self._model().fingerprint()}

    def _states(self, conversations: Sequence[Conversation], offers: Sequence[Offer]) -> list[Floats]:
        """Mean states of the user's latest turn and of every reply on offer, shape (1 + offered, D) each."""
        model = self._model()
        jobs: list[tuple[int, tuple[Message, ...]]] = []
        for row, (conversation, offer) in enumerate(zip(conversations, offers, strict=True)):
            asked = max((at for at, one in enumerate(conversation.messages) if one.role == "user"), default=-1)
            latest = conversation.messages[: asked + 1][-_CONTEXT:]
            replies = [turn.text or "." for turn in offer] or ["."]
            jobs += [(row, (*latest, Message("assistant", reply))) for reply in replies]
        made = [rendered(model.tokenizer, messages) for _, messages in jobs]
        # a conversation whose opening failed has no user turn to read, and is all zeros
        read_N = iter(model.hidden_states([text for text, _ in made if text], layers=[self.layer]))
        found: list[list[Floats]] = [[] for _ in conversations]
        for (row, _), (text, exchanges) in zip(jobs, made, strict=True):
            pooled = pool(next(read_N), exchanges[-1]) if text else None
            question, answer = pooled[0, :2] if pooled is not None else np.zeros((2, self._width()), dtype=np.float32)
            if not found[row]:
                found[row].append(question)
            if offers[row]:
                found[row].append(answer)
        return [np.stack(states).astype(np.float32) for states in found]

    def _width(self) -> int:
        return int(self._model().model.config.get_text_config().hidden_size)

    def _model(self) -> TransformersLM:
        model = unwrapped(load_language_model(self.model_spec))
        if not isinstance(model, TransformersLM):
            raise ConfigurationError(
                f"Observations are made of hidden states and need a model in process, not a {type(model).__name__}."
            )
        return model


class ChoiceActions(gymnasium.Wrapper[dict[str, Any], Any, dict[str, Any], Any]):
    """Actions are the numbers of choices; the frozen writer's reply is what the assistant says.

    `info["utterance"]` holds what was said. A reply that failed ends the conversation: `truncated`, reward NaN,
    `info["fault"]`.
    """

    def __init__(self, env: TextEnv, choices: Choices) -> None:
        """Wrap a simgym environment.

        Raises:
            ConfigurationError: it is none.
        """
        super().__init__(env)
        if not isinstance(env.unwrapped, ConversationEnv):
            raise ConfigurationError(f"The environment is a {type(env.unwrapped).__name__}, expected UserSim-....")
        self.choices = choices
        self.action_space: spaces.Space[Any] = spaces.Discrete(choices.count)
        self.offers: Offer = ()

    @property
    def dialogue(self) -> Dialogue:
        """The conversation in full; for evaluation."""
        base = self.env.unwrapped
        assert isinstance(base, ConversationEnv)  # checked on construction
        return base.dialogue

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        self._offer()
        return observation, info

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        dialogue = self.dialogue
        turn = self.choices.take([dialogue.conversation], [self.offers], [int(action)], [dialogue.assistant_seed])[0]
        observation, reward, terminated, truncated, info = self.env.step(turn)
        self._offer()
        return observation, float(reward), terminated, truncated, {**info, "utterance": turn.text}

    def _offer(self) -> None:
        dialogue = self.dialogue
        if not dialogue.ended:
            self.offers = self.choices.offer([dialogue.conversation], seeds=[dialogue.assistant_seed])[0]
        elif not dialogue.conversation.messages:  # the opening failed
            self.offers = (AssistantTurn("", "none"),) * self.choices.seen


class StrategyActions(ChoiceActions):
    """`ChoiceActions` over ways to answer; see `Strategies` for the arguments."""

    def __init__(self, env: TextEnv, model: LanguageModelSpec = DEFAULT_MODEL, **how: Any) -> None:
        super().__init__(env, Strategies(model, **how))


class CandidateActions(ChoiceActions):
    """`ChoiceActions` over k drawn replies; see `Candidates` for the arguments."""

    def __init__(self, env: TextEnv, model: LanguageModelSpec = DEFAULT_MODEL, **how: Any) -> None:
        super().__init__(env, Candidates(model, **how))


class EmbedObservation(gymnasium.ObservationWrapper[Any, Any, dict[str, Any]]):
    """Observations are vectors of `ConversationFeatures`; goes round `ChoiceActions`."""

    def __init__(self, env: ChoiceActions, features: ConversationFeatures | None = None) -> None:
        """Wrap.

        Args:
            env: An environment with numbered choices.
            features: What is read; None: the default model's hidden states, unprojected.

        Raises:
            ConfigurationError: `env` has no choices.
        """
        super().__init__(env)
        if not isinstance(env, ChoiceActions):
            raise ConfigurationError("EmbedObservation goes round StrategyActions or CandidateActions.")
        base = env.unwrapped
        assert isinstance(base, ConversationEnv)  # checked by ChoiceActions
        self.features = features or ConversationFeatures(max_turns=base.settings.max_turns)
        self.observation_space: spaces.Space[Any] = self.features.space(env.choices)
        self._choices = env

    def observation(self, observation: dict[str, Any]) -> Floats:
        row: Floats = self.features([self._choices.dialogue.conversation], [self._choices.offers])[0]
        return row
