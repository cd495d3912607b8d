"""N conversations stepped together: one simulator call and one judge call per step for all of them.

`gym.make_vec("UserSim-...", num_envs=N, vectorization_mode="vector_entry_point")` gives this. Sub-environment i of
`reset(seed=s)` has the seed s + i, as in Gymnasium, and holds the same conversation as a single environment with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from simgym.conversation import Scenario
from simgym.envs.conversation_env import make_settings, next_seed
from simgym.envs.episodes import Episode
from simgym.envs.settings import describe, observe, step_reward
from simgym.errors import ConfigurationError, EpisodeError, InvalidAction

_INFO_TYPES: Mapping[str, type] = {"seed": int, "judge_failed": bool}
"""Of the infos that are numbers; the others are objects, or None."""


class UserSimVectorEnv(VectorEnv[dict[str, Any], tuple[str, ...], Any]):
    """N conversations in one environment; arguments, spaces and end reasons as in `ConversationEnv`.

    Autoreset: with NEXT_STEP (default) the step after the end of a conversation ignores that action and starts the next
    one; with DISABLED an ended conversation stays ended, its actions are ignored with reward 0, and
    `reset(options={"reset_mask": mask})` starts new ones where the mask (bool [N]) is true.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, *, num_envs: int = 1, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **settings: Any
    ) -> None:
        """Take the arguments of `ConversationSettings`.

        Args:
            num_envs: N, >= 1.
            autoreset_mode: `AutoresetMode.NEXT_STEP` or `DISABLED`, or their values `NextStep`, `Disabled`.
            settings: simulator, model, scenarios, judge, judge_model, max_turns, and so on.

        Raises:
            ConfigurationError: an argument is unknown or has a wrong value.
        """
        if num_envs < 1:
            raise ConfigurationError(f"num_envs is {num_envs}, expected >= 1.")
        try:
            mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            raise ConfigurationError(f"autoreset_mode is {autoreset_mode!r}, expected NextStep or Disabled.") from error
        if mode == AutoresetMode.SAME_STEP:
            raise ConfigurationError("autoreset_mode SameStep is not offered: it would hide the final user turn.")
        settings.pop("render_mode", None)
        self.settings = make_settings(settings)
        self.num_envs = num_envs
        self.autoreset_mode = mode
        self.metadata = {**self.metadata, "autoreset_mode": mode}  # per instance, as SyncVectorEnv does
        self.episodes = self.settings.episodes()
        self.single_action_space = self.settings.action_space()
        self.single_observation_space = self.settings.observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._running: list[Episode] = []
        self._over = np.zeros(num_envs, dtype=bool)

    @property
    def scenarios(self) -> list[Scenario]:
        """The N current scenarios with their hidden intents; for evaluation."""
        return [episode.scenario for episode in self._current()]

    @property
    def current_episodes(self) -> list[Episode]:
        """The N current conversations in full; for evaluation."""
        return list(self._current())

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start N conversations, or those of `options["reset_mask"]`.

        Args:
            seed: One number (row i gets seed + i), N numbers, or None for the next in each row's sequence.
            options: `reset_mask` (bool [N]), `scenario_ids` (N ids or None each).

        Raises:
            ConfigurationError: a list has the wrong length, or there is no such scenario.
        """
        options = options or {}
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)), dtype=bool)
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        seeds = [None] * self.num_envs if seeds is None else list(seeds)
        ids = list(options.get("scenario_ids") or [None] * self.num_envs)
        for name, value in (("seed", seeds), ("scenario_ids", ids), ("reset_mask", mask)):
            if len(value) != self.num_envs:
                raise ConfigurationError(f"{name} has {len(value)} entries, expected {self.num_envs}.")
        if not self._running and not mask.all():
            raise EpisodeError("The first reset has to start all conversations. Leave reset_mask out.")
        super().reset(seed=seeds[0])
        self._restart([row for row in range(self.num_envs) if mask[row]], seeds, ids)
        return self._observations(), self._infos()

    def step(self, actions: Sequence[str]) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Let N assistants speak.

        Returns:
            Observations, rewards float64 [N], terminated bool [N], truncated bool [N], infos.

        Raises:
            EpisodeError: before `reset`.
            InvalidAction: not N texts, or one that a running conversation cannot take; nothing has changed.
        """
        self._current()
        if isinstance(actions, str) or len(actions) != self.num_envs:
            given = "one text" if isinstance(actions, str) else f"{len(actions)} actions"
            raise InvalidAction(f"Got {given}, expected {self.num_envs} texts, one per conversation.")
        speaking = [row for row in range(self.num_envs) if not self._over[row]]
        utterances = [self.settings.check_action(actions[row]) for row in speaking]
        waiting = [row for row in range(self.num_envs) if self._over[row]]
        open_rows = [row for row in speaking if self._running[row].end_reason is None]
        said = dict(zip(speaking, utterances, strict=True))
        for row in set(speaking) - set(open_rows):  # the opening failed; the first step says so
            self._running[row].turn = 1
        self.episodes.advance([self._running[row] for row in open_rows], [said[row] for row in open_rows])
        rewards, terminated, truncated = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), dtype=bool)
        for row in speaking:
            episode = self._running[row]
            rewards[row], terminated[row], truncated[row] = step_reward(episode), episode.terminated, episode.truncated
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            if waiting:
                self._restart(waiting, [None] * self.num_envs, [None] * self.num_envs)
        else:
            for row in waiting:
                terminated[row], truncated[row] = self._running[row].terminated, self._running[row].truncated
        self._over = terminated | truncated
        return self._observations(), rewards, terminated, truncated, self._infos()

    def _restart(self, rows: Sequence[int], seeds: Sequence[int | None], ids: Sequence[str | None]) -> None:
        if not rows:
            return
        previous: list[Episode | None] = list(self._running) or [None] * self.num_envs
        chosen = [next_seed(seeds[row], previous[row]) for row in rows]
        scenarios = [self.episodes.scenario(seed, ids[row]) for seed, row in zip(chosen, rows, strict=True)]
        fresh = dict(zip(rows, self.episodes.start(scenarios, chosen), strict=True))
        self._running = [fresh.get(row) or self._running[row] for row in range(self.num_envs)]
        self._over[list(rows)] = False

    def _current(self) -> list[Episode]:
        if not self._running:
            raise EpisodeError("There are no conversations yet. Call reset() first.")
        return self._running

    def _observations(self) -> dict[str, Any]:
        seen = [observe(episode) for episode in self._running]
        return {
            "user_reply": tuple(observation["user_reply"] for observation in seen),
            "judge_reward": np.array([observation["judge_reward"] for observation in seen], dtype=np.float32),
            "turn": np.array([observation["turn"] for observation in seen]),
        }

    def _infos(self) -> dict[str, Any]:
        # what Gymnasium's `_add_info` gives row by row, built column by column
        described = [describe(episode) for episode in self._running]
        infos: dict[str, Any] = {}
        everywhere = np.ones(self.num_envs, dtype=bool)
        for key in described[0]:
            column: np.ndarray = np.empty(self.num_envs, dtype=_INFO_TYPES.get(key, object))
            column[:] = [one[key] for one in described]
            infos[key], infos[f"_{key}"] = column, everywhere
        return infos
