"""`UserSimReplies-v0`: conversations as numbers, for RL libraries that make their environments by name.

    config = PPOConfig().environment("simgym:UserSimReplies-v0", env_config={"env_id": "UserSim-Persona-v0"})
    config = config.env_runners(num_envs_per_env_runner=16, gym_env_vectorize_mode=VectorizeMode.VECTOR_ENTRY_POINT)

`Discrete` actions are those of an action set (`Strategies`, or `SampledReplies`), `Box` observations the features of
the conversation; see `simgym.envs.features`. N conversations are stepped with one model call per role;
`gymnasium.make` gives one of them (`numeric_single`). RLlib, CleanRL, TorchRL and Tianshou know no missing reward: a
conversation that was not judged gets the mean of recent rewards, which pulls the policy in no direction;
`info["reward_imputed"]` marks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from simgym.assistants.action_sets import ActionSet, SampledReplies, Strategies
from simgym.envs.conversation_env import next_seed, row_seeds
from simgym.envs.features import ConversationFeatures
from simgym.envs.numbered_replies import Array, NumberedReplies
from simgym.envs.outages import check_servers
from simgym.envs.recent_rewards import RecentRewards
from simgym.envs.settings import outcome_of
from simgym.envs.shared_simulation import shared_simulation
from simgym.errors import ConfigurationError, EpisodeError
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.simulation import Dialogue

ACTION_SETS = {"strategies": Strategies, "sampled_replies": SampledReplies}
"""Action sets that have a name."""


class RepliesVectorEnv(VectorEnv[Array, Array, Array]):
    """N conversations; the step after the end of one ignores its action and begins the next (NEXT_STEP autoreset)."""

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        *,
        env_id: str = "UserSim-Persona-v0",
        actions: str | ActionSet = "strategies",
        assistant_model: LanguageModelSpec = DEFAULT_MODEL,
        layer: int = 12,
        num_envs: int = 1,
        **settings: Any,
    ) -> None:
        """Choose users, actions and observations.

        Args:
            env_id: `UserSim-...`: who plays the user.
            actions: `strategies`, `sampled_replies`, or an action set.
            assistant_model: A model in process: writes the replies, and its hidden states are observed.
            layer: Layer that is observed.
            num_envs: N, >= 1.
            settings: Arguments of the environment: model, scenarios, judge, max_turns, ...

        Raises:
            ConfigurationError: an argument is unknown or has a wrong value.
        """
        if isinstance(actions, str) and actions not in ACTION_SETS:
            raise ConfigurationError(f"actions is {actions!r}, expected {' or '.join(ACTION_SETS)}, or an action set.")
        if num_envs < 1:
            raise ConfigurationError(f"num_envs is {num_envs}, expected >= 1.")
        settings.pop("render_mode", None)
        self.num_envs = num_envs
        self.simulation = shared_simulation(env_id, settings)
        self.action_set = ACTION_SETS[actions](assistant_model) if isinstance(actions, str) else actions
        self.features = ConversationFeatures(assistant_model, layer=layer, max_turns=self.simulation.max_turns)
        self._replies = NumberedReplies(self.action_set, self.features)
        self.single_action_space = spaces.Discrete(self.action_set.num_actions)
        self.single_observation_space = self.features.space(self.action_set)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._recent_rewards = RecentRewards()
        self._dialogues: list[Dialogue] = []
        self._over = np.zeros(num_envs, dtype=bool)

    @property
    def dialogues(self) -> list[Dialogue]:
        """The N current conversations in full; for evaluation."""
        return list(self._dialogues)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, object] | None = None
    ) -> tuple[Array, dict[str, object]]:
        """Begin N conversations; row r gets seed + r, the r-th seed, or the next in its sequence."""
        seeds = row_seeds(seed, self.num_envs)
        before: list[Dialogue | None] = [*self._dialogues] or [None] * self.num_envs
        super().reset(seed=seeds[0])
        chosen = [next_seed(given, dialogue) for given, dialogue in zip(seeds, before, strict=True)]
        self._dialogues = self.simulation.open(chosen)
        check_servers(self._dialogues)
        self._over[:] = False
        return self._replies.observe(self._dialogues), self._infos([False] * self.num_envs)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Act in N conversations.

        Returns:
            Observations float32 [N, size], rewards float64 [N], terminated bool [N], truncated bool [N], infos.

        Raises:
            EpisodeError: before `reset`.
            ServerUnavailable: all conversations failed because a model's server does not answer.
        """
        if not self._dialogues:
            raise EpisodeError("There is no conversation yet. Call reset() first.")
        speaking, waiting = np.flatnonzero(~self._over).tolist(), np.flatnonzero(self._over).tolist()
        self._speak(speaking, actions)
        opened = self.simulation.open([next_seed(None, self._dialogues[row]) for row in waiting]) if waiting else []
        for row, dialogue in zip(waiting, opened, strict=True):
            self._dialogues[row] = dialogue
        check_servers(self._dialogues)
        rewards, imputed = np.zeros(self.num_envs), [False] * self.num_envs
        self._over[:] = False
        for row in speaking:
            rewards[row], imputed[row] = self._recent_rewards.reward_of(self._dialogues[row])
            self._over[row] = self._dialogues[row].ended
        terminated = self._over & np.array([dialogue.terminated for dialogue in self._dialogues])
        return (
            self._replies.observe(self._dialogues),
            rewards,
            terminated,
            self._over & ~terminated,
            self._infos(imputed),
        )

    def _speak(self, rows: Sequence[int], actions: Array) -> None:
        """The assistant says what the actions stand for."""
        turns = self._replies.turns(self._dialogues, actions)
        stepped = self.simulation.step([self._dialogues[row] for row in rows], [turns[row] for row in rows])
        for row, dialogue in zip(rows, stepped, strict=True):
            self._dialogues[row] = dialogue

    def _infos(self, imputed: Sequence[bool]) -> dict[str, object]:
        infos: dict[str, object] = {}
        for row, dialogue in enumerate(self._dialogues):
            infos = self._add_info(infos, {**outcome_of(dialogue), "reward_imputed": imputed[row]}, row)
        return infos
