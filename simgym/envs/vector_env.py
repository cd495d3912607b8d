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
from simgym.envs.conversation_env import make_settings, next_seed, row_seeds
from simgym.envs.settings import EndRewards, unjudged
from simgym.errors import ConfigurationError, EpisodeError, InvalidAction
from simgym.simulation import Dialogue


class UserSimVectorEnv(VectorEnv[dict[str, object], tuple[str, ...], object]):
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
        self.simulation = self.settings.simulation()
        self.single_action_space = self.settings.action_space()
        self.single_observation_space = self.settings.observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rewards = EndRewards(self.settings.failed_judge_reward)
        self._dialogues: list[Dialogue] = []
        self._over = np.zeros(num_envs, dtype=bool)

    @property
    def scenarios(self) -> list[Scenario]:
        """The N current scenarios with their hidden intents; for evaluation."""
        return [dialogue.scenario for dialogue in self._current()]

    @property
    def dialogues(self) -> list[Dialogue]:
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
        seeds = row_seeds(seed, self.num_envs)
        ids = list(options.get("scenario_ids") or [None] * self.num_envs)
        for name, value in (("scenario_ids", ids), ("reset_mask", mask)):
            if len(value) != self.num_envs:
                raise ConfigurationError(f"{name} has {len(value)} entries, expected {self.num_envs}.")
        if not self._dialogues and not mask.all():
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
        over = self._over.tolist()
        waiting = [row for row in range(self.num_envs) if over[row]]
        speaking = [row for row in range(self.num_envs) if not over[row]]
        stepped = self.simulation.step(
            [self._dialogues[row] for row in speaking],
            [actions[row] for row in speaking],
            refuse_invalid=True,
        )
        rewards, terminated, truncated = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), dtype=bool)
        for row, dialogue in zip(speaking, stepped, strict=True):
            self._dialogues[row] = dialogue
            if dialogue.end_reason is not None:
                rewards[row], terminated[row] = self._rewards(dialogue), dialogue.terminated
                truncated[row] = not dialogue.terminated
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            if waiting:
                self._restart(waiting, [None] * self.num_envs, [None] * self.num_envs)
        else:
            for row in waiting:
                terminated[row], truncated[row] = self._dialogues[row].terminated, self._dialogues[row].truncated
        self._over = terminated | truncated
        return self._observations(), rewards, terminated, truncated, self._infos()

    def _restart(self, rows: Sequence[int], seeds: Sequence[int | None], ids: Sequence[str | None]) -> None:
        if not rows:
            return
        previous: list[Dialogue | None] = list(self._dialogues) or [None] * self.num_envs
        chosen = [next_seed(seeds[row], previous[row]) for row in rows]
        opened = dict(zip(rows, self.simulation.open(chosen, [ids[row] for row in rows]), strict=True))
        self._dialogues = [opened.get(row) or self._dialogues[row] for row in range(self.num_envs)]
        self._over[list(rows)] = False

    def _current(self) -> list[Dialogue]:
        if not self._dialogues:
            raise EpisodeError("There are no conversations yet. Call reset() first.")
        return self._dialogues

    def _observations(self) -> dict[str, object]:
        # what `observe` gives row by row, built column by column
        return {
            "user_reply": tuple([dialogue.user_reply for dialogue in self._dialogues]),
            "judge_reward": np.array([dialogue.reward or 0.0 for dialogue in self._dialogues], dtype=np.float32),
            "turn": np.array([dialogue.turn for dialogue in self._dialogues], dtype=np.int64),
        }

    def _infos(self) -> dict[str, Any]:
        # what Gymnasium's `_add_info` makes of `describe` row by row, built column by column
        faults = [None if dialogue.fault is None else str(dialogue.fault) for dialogue in self._dialogues]
        columns: dict[str, tuple[list[Any], Any]] = {
            "end_reason": ([dialogue.end_reason for dialogue in self._dialogues], object),
            "judge_failed": ([dialogue.end_reason == "judge_fault" for dialogue in self._dialogues], bool),
            "unjudged": ([unjudged(dialogue) for dialogue in self._dialogues], bool),
            "fault": (faults, object),
            "seed": ([dialogue.seed for dialogue in self._dialogues], int),
            "scenario_id": ([dialogue.scenario.id for dialogue in self._dialogues], object),
        }
        everywhere = np.ones(self.num_envs, dtype=bool)
        infos: dict[str, Any] = {}
        for name, (values, kind) in columns.items():
            infos[name], infos[f"_{name}"] = np.array(values, dtype=kind), everywhere
        return infos
