"""stable-baselines3 over simulated users: a batched `VecEnv`.

    vec_env = TextVecEnv("UserSim-Persona-v0", Strategies(), features, num_envs=16, seed=0, max_turns=2)
    model = PPO("MlpPolicy", vec_env, n_steps=4, batch_size=64).learn(2000)

stable-baselines3 takes no text, so actions are numbers of an action set and observations are vectors of features (see
`simgym.envs.features`). `TextVecEnv` steps all conversations with one model call per role. stable-baselines3
cannot leave out a step, so a conversation that ends without a reward because of a fault gets the mean of recent
rewards, which pulls the policy in no direction; `info["reward_imputed"]` marks it, and `faults` counts such
conversations by kind. When all fail because a server does not answer, `reset` and `step` raise `ServerUnavailable`.
`simgym.integrations.policy_assistant` makes an assistant of the trained policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from simgym.assistants.action_sets import ActionSet
from simgym.assistants.training_record import TrainingRecord
from simgym.envs.conversation_rows import ConversationRows
from simgym.envs.features import ConversationFeatures
from simgym.envs.numbered_replies import Array, NumberedReplies
from simgym.envs.settings import describe
from simgym.envs.shared_simulation import shared_simulation
from simgym.integrations._vec_env import OneVecEnv
from simgym.language_models.model_spec import recorded_model
from simgym.simulation import Dialogue


class TextVecEnv(OneVecEnv):
    """N conversations for stable-baselines3, with one model call per role and step."""

    render_mode = None

    def __init__(
        self,
        env_id: str,
        action_set: ActionSet,
        features: ConversationFeatures,
        *,
        num_envs: int = 8,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Make the environments.

        Args:
            env_id: `UserSim-...`.
            action_set: What the actions mean.
            features: What the observations are; its `max_turns` should be that of the environment.
            num_envs: N.
            seed: Decides the scenario and all randomness of the users of every conversation: row r's cth conversation
                has the same scenario and seed whatever the policy does and whoever simulates the user.
            settings: Arguments of the environment.

        Raises:
            ConfigurationError: `env_id` is not one of simgym's environments, or an argument is wrong.
        """
        self.env_id, self.simulation = env_id, shared_simulation(env_id, settings)
        self.action_set, self.features = action_set, features
        self._rows = ConversationRows(self.simulation, num_envs, seed)
        self._replies = NumberedReplies(action_set, features)
        self._observations = np.zeros((0, 0), dtype=np.float32)
        self._actions: list[int] = []
        super().__init__(num_envs, features.space(action_set), spaces.Discrete(action_set.num_actions))

    @property
    def dialogues(self) -> list[Dialogue]:
        """The N running conversations in full; for evaluation."""
        return list(self._rows.dialogues)

    @property
    def conversations_begun(self) -> list[int]:
        """Conversations that each row has begun."""
        return self._rows.begun

    @property
    def faults(self) -> Counter[str]:
        """Conversations without a reward, by kind of fault."""
        return self._rows.faults

    def reset(self) -> Array:
        """Begin N new conversations (after `seed(s)` the first ones of that seed), or continue those of `restore`."""
        self._rows.open(self._seeds[0])
        self._reset_seeds()
        self._observations = self._replies.observe(self._rows.dialogues)
        return self._observations.copy()

    def step_async(self, actions: Array) -> None:
        self._actions = [int(action) for action in actions]

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, object]]]:
        steps = self._rows.step(self._replies.turns(self._rows.dialogues, self._actions))
        infos: list[dict[str, object]] = [describe(step.dialogue) for step in steps]
        for row, step in enumerate(steps):
            if step.dialogue.ended:
                infos[row] |= {
                    "dialogue": step.dialogue,
                    "TimeLimit.truncated": False,
                    "terminal_observation": self._observations[row].copy(),
                    "reward_imputed": step.dialogue.reward is None,
                }
        rewards = np.array([step.reward for step in steps], dtype=np.float32)
        dones = np.array([step.dialogue.ended for step in steps])
        self._observations = self._replies.observe(self._rows.dialogues)
        return self._observations.copy(), rewards, dones, infos

    def training_record(self, *, method: str, steps: int) -> TrainingRecord:
        """What a policy is trained with here.

        Args:
            method: What trains it, e.g. `ppo`.
            steps: Assistant turns or updates so far, as the trainer counts them.
        """
        return TrainingRecord(
            method=method,
            env_id=self.env_id,
            base_model=recorded_model(self.features.model_spec),
            seed=self._rows.seed,
            steps=steps,
            max_turns=self.simulation.max_turns,
            simulator=self.simulation.simulator.fingerprint(),
            judge=self.simulation.judge.fingerprint(),
        )

    def state(self) -> dict[str, object]:
        """The running conversations as JSON values, for a checkpoint."""
        return self._rows.state()

    def begin_again(self) -> None:
        """The next `reset` gives every row's first conversation."""
        self._rows.begin_again()

    def restore(self, state: Mapping[str, object]) -> None:
        """Continue from a `state`: the next `reset` gives its conversations instead of new ones.

        Raises:
            ConfigurationError: it is not such a state, or has another number of conversations.
        """
        self._rows.restore(state)

    def close(self) -> None:
        """Nothing is held open."""
