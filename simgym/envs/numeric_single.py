"""One conversation of `UserSimReplies-v0`: a batch of one; see `simgym.envs.numeric`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from simgym.envs.numbered_replies import Array
from simgym.envs.numeric import RepliesVectorEnv
from simgym.envs.settings import outcome_of
from simgym.errors import EpisodeError
from simgym.simulation import Dialogue


class RepliesEnv(gymnasium.Env[Array, object]):
    """One of them; arguments as for `RepliesVectorEnv`."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, **arguments: Any) -> None:
        self._row = RepliesVectorEnv(**{**arguments, "num_envs": 1})
        self.action_space = self._row.single_action_space
        self.observation_space = self._row.single_observation_space

    @property
    def dialogue(self) -> Dialogue:
        """The conversation in full; for evaluation."""
        return self._row.dialogues[0]

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, object] | None = None
    ) -> tuple[Array, dict[str, object]]:
        """Begin a conversation."""
        super().reset(seed=seed)
        observations, _ = self._row.reset(seed=None if seed is None else [seed])
        return observations[0], {**outcome_of(self.dialogue), "reward_imputed": False}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Act; after the end `reset` begins another conversation.

        Raises:
            EpisodeError: before `reset`, or after the end.
        """
        if self._row.dialogues and self.dialogue.ended and self.dialogue.turn > 0:
            raise EpisodeError("The conversation has ended. Call reset() to start another.")
        observations, rewards, terminated, truncated, infos = self._row.step(np.array([action]))
        info = {**outcome_of(self.dialogue), "reward_imputed": bool(infos["reward_imputed"][0])}
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info
