"""Conversations as numbers, for RL libraries that take no text: `Discrete` actions, `Box` observations.

    env = gym.make("UserSim-Persona-v0", max_turns=2)
    env = EmbeddingObservation(DiscreteReplies(env, Strategies()))

`DiscreteReplies` turns an action number (see `simgym.assistants.action_sets`) into an utterance, written by a frozen
language model. `EmbeddingObservation` observes hidden states of the shared base model, averaged over the user's latest
turn and over each candidate reply. `simgym.integrations.stable_baselines3` has the batched form of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from simgym.assistants.action_sets import ActionSet, Candidates
from simgym.assistants.base import AssistantTurn
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
"""Messages read for an observation: the user's latest turn and the exchange before it."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A fixed linear map from hidden states of size D to K numbers of about unit variance."""

    mean: Floats
    """Shape (D,)."""
    components: Floats
    """Shape (K, D), K directions, scaled."""

    def __call__(self, states: Floats) -> Floats:
        """Shape (..., D) to (..., K)."""
        projected: Floats = ((states - self.mean) @ self.components.T).astype(np.float32)
        return projected

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
    """Turns N conversations that end with a user turn into vectors, with one forward pass up to the layer that is read.

    A vector holds, in this order: the user's latest turn (K numbers), the assistant's turns so far as a share of
    `max_turns`, the logarithm of the length of the user's turn, and K numbers for each candidate reply.
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
            model: A model in process; its weights are shared with every other user of the same model.
            layer: Layer whose output is averaged.
            max_turns: Turn limit of the environment.
            projection: See `fitted`; None: the hidden states as they are, K = D.
        """
        self.model_spec = model
        self.layer = layer
        self.max_turns = max_turns
        self.projection = projection

    def fitted(
        self, conversations: Sequence[Conversation], *, candidates_N: Sequence[Candidates] | None = None, size: int = 16
    ) -> ConversationFeatures:
        """These features with a projection to K = `size` numbers.

        Args:
            conversations: N conversations that end with a user turn.
            candidates_N: Replies to each, to fit the projection on; None: it is fitted on the users' turns.
            size: K.

        Raises:
            ConfigurationError: there are too few texts.
        """
        states = self._states(conversations, candidates_N or [()] * len(conversations))
        replies_or_turns = [rows[1:] if candidates_N else rows[:1] for rows in states]
        return ConversationFeatures(
            self.model_spec,
            layer=self.layer,
            max_turns=self.max_turns,
            projection=Projection.fit(np.concatenate(replies_or_turns), size),
        )

    def space(self, action_set: ActionSet) -> spaces.Box:
        """An unbounded float32 vector, as long as these actions need."""
        each = len(self.projection.components) if self.projection is not None else self._width()
        return spaces.Box(-np.inf, np.inf, (each * (1 + action_set.num_candidates) + 2,), np.float32)

    def __call__(self, conversations: Sequence[Conversation], candidates_N: Sequence[Candidates]) -> Floats:
        """Vectors of N conversations, shape (N, size of the space), finite."""
        if not conversations:
            return np.zeros((0, 0), dtype=np.float32)
        rows = []
        for conversation, states in zip(conversations, self._states(conversations, candidates_N), strict=True):
            turn, *replies = self.projection(states) if self.projection is not None else states
            user_turns = conversation.said_by("user")
            progress = min(1.0, len(conversation.said_by("assistant")) / self.max_turns)
            log_length = np.log1p(len(user_turns[-1]) if user_turns else 0) / 5
            rows.append(np.concatenate([turn, [progress, log_length], *replies]))
        return np.nan_to_num(np.stack(rows).astype(np.float32))

    def to_json(self) -> dict[str, Any]:
        """JSON values that identify the features; the projection's numbers go elsewhere."""
        return {"layer": self.layer, "max_turns": self.max_turns, "model": self._model().fingerprint()}

    def _states(self, conversations: Sequence[Conversation], candidates_N: Sequence[Candidates]) -> list[Floats]:
        """Mean states of the user's latest turn and of every candidate reply, shape (1 + candidates, D) each."""
        model = self._model()
        rows: list[int] = []
        exchanges: list[tuple[Message, ...]] = []
        for row, (conversation, candidates) in enumerate(zip(conversations, candidates_N, strict=True)):
            latest = _latest_exchange(conversation)
            replies = [turn.text or "." for turn in candidates] or ["."]
            exchanges += [(*latest, Message("assistant", reply)) for reply in replies]
            rows += [row] * len(replies)
        rendered_N = [rendered(model.tokenizer, messages) for messages in exchanges]
        # A conversation whose opening failed has no user turn to read: its states are all zero.
        hidden_N = iter(model.hidden_states([text for text, _ in rendered_N if text], layers=[self.layer]))
        states_N: list[list[Floats]] = [[] for _ in conversations]
        for row, (text, spans) in zip(rows, rendered_N, strict=True):
            pooled = pool(next(hidden_N), spans[-1]) if text else None
            turn, reply = pooled[0, :2] if pooled is not None else np.zeros((2, self._width()), dtype=np.float32)
            if not states_N[row]:
                states_N[row].append(turn)
            if candidates_N[row]:
                states_N[row].append(reply)
        return [np.stack(states).astype(np.float32) for states in states_N]

    def _width(self) -> int:
        return int(self._model().model.config.get_text_config().hidden_size)

    def _model(self) -> TransformersLM:
        model = unwrapped(load_language_model(self.model_spec))
        if not isinstance(model, TransformersLM):
            raise ConfigurationError(
                f"Observations are made of hidden states and need a model in process, not a {type(model).__name__}."
            )
        return model


def _latest_exchange(conversation: Conversation) -> tuple[Message, ...]:
    """The user's latest turn and what comes right before it; empty if the user has not spoken."""
    ends = [number for number, message in enumerate(conversation.messages, 1) if message.role == "user"]
    return conversation.messages[: ends[-1]][-_CONTEXT:] if ends else ()


class DiscreteReplies(gymnasium.Wrapper[dict[str, Any], Any, dict[str, Any], Any]):
    """Makes an environment's actions numbers; the assistant says what the action set writes for a number.

    `info["utterance"]` holds what was said. A reply that failed ends the conversation: `truncated`, reward NaN,
    `info["fault"]`.
    """

    def __init__(self, env: TextEnv, action_set: ActionSet) -> None:
        """Wrap a simgym environment.

        Args:
            env: `UserSim-...`, wrapped or not.
            action_set: What the actions mean, such as `Strategies()` or `SampledReplies()`.

        Raises:
            ConfigurationError: it is another kind of environment.
        """
        super().__init__(env)
        if not isinstance(env.unwrapped, ConversationEnv):
            raise ConfigurationError(f"The environment is a {type(env.unwrapped).__name__}, expected UserSim-....")
        self.action_set = action_set
        self.action_space: spaces.Space[Any] = spaces.Discrete(action_set.num_actions)
        self.candidates: Candidates = ()
        """Replies that the next action can choose among."""

    @property
    def dialogue(self) -> Dialogue:
        """The conversation in full; for evaluation."""
        base = self.env.unwrapped
        assert isinstance(base, ConversationEnv)  # checked on construction
        return base.dialogue

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        self._propose()
        return observation, info

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        dialogue = self.dialogue
        (turn,) = self.action_set.apply(
            [dialogue.conversation], [self.candidates], [int(action)], seeds=[dialogue.assistant_seed]
        )
        observation, reward, terminated, truncated, info = self.env.step(turn)
        self._propose()
        return observation, float(reward), terminated, truncated, {**info, "utterance": turn.text}

    def _propose(self) -> None:
        dialogue = self.dialogue
        if not dialogue.ended:
            (self.candidates,) = self.action_set.propose([dialogue.conversation], seeds=[dialogue.assistant_seed])
        elif not dialogue.conversation.messages:  # the opening failed
            self.candidates = (AssistantTurn("", "none"),) * self.action_set.num_candidates


class EmbeddingObservation(gymnasium.ObservationWrapper[Any, Any, dict[str, Any]]):
    """Observations are vectors of `ConversationFeatures`; wraps a `DiscreteReplies`."""

    def __init__(self, env: DiscreteReplies, features: ConversationFeatures | None = None) -> None:
        """Wrap.

        Args:
            env: An environment with numbered actions.
            features: What is read; None: the default model's hidden states, without a projection.

        Raises:
            ConfigurationError: the actions of `env` are not numbered.
        """
        super().__init__(env)
        if not isinstance(env, DiscreteReplies):
            raise ConfigurationError(
                f"EmbeddingObservation got a {type(env).__name__}, expected an environment in DiscreteReplies."
            )
        base = env.unwrapped
        assert isinstance(base, ConversationEnv)  # checked by DiscreteReplies
        self.features = features or ConversationFeatures(max_turns=base.settings.max_turns)
        self.observation_space: spaces.Space[Any] = self.features.space(env.action_set)
        self._replies = env

    def observation(self, observation: dict[str, Any]) -> Floats:
        vector: Floats = self.features([self._replies.dialogue.conversation], [self._replies.candidates])[0]
        return vector
