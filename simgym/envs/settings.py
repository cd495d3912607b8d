"""The arguments that every environment takes, and what they become: spaces and a simulation.

All values can be JSON (names, numbers, mappings), so that `EnvSpec.to_json` keeps them; instances are welcome too, but
then the spec cannot be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from simgym.conversation import Scenario
from simgym.envs.spaces import UnicodeText
from simgym.errors import ConfigurationError
from simgym.judges.base import Judge
from simgym.judges.loading import load_judge
from simgym.language_models.loading import LanguageModelSpec
from simgym.simulation import Dialogue, Simulation
from simgym.simulators.base import UserSimulator
from simgym.simulators.loading import load_simulator


@dataclass(frozen=True, kw_only=True)
class ConversationSettings:
    """Constructor arguments shared by `ConversationEnv` and `UserSimVectorEnv`."""

    simulator: str | UserSimulator = "role_play"
    """Who plays the user: a registered name, `py:module:Class` or an instance; the environment id chooses it."""
    model: LanguageModelSpec | None = None
    """Model of the simulator, see `ModelSpec`; None: the simulator's own default (the default model of 135M)."""
    scenarios: str | Sequence[Scenario] = "everyday"
    """Name of a set (`everyday`, `chitchat`), path of a JSONL file, or scenarios."""
    judge: str | Judge = "reward_head"
    """Who judges the finished conversation: a registered name, `py:module:Class` or an instance."""
    judge_model: LanguageModelSpec | None = None
    """Model of the judge; None: the judge's own default. Does not follow `model`, so that judges stay comparable."""
    max_turns: int = 5
    """Assistant turns after which the conversation ends, >= 1."""
    max_length: int = 32_768
    """Longest utterance of either side, code points."""
    simulator_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the simulator."""
    judge_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the judge."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigurationError(f"max_length is {self.max_length}, expected >= 1.")
        # Made now so that a wrong name fails in gym.make; simulators and judges load their models on first use.
        object.__setattr__(self, "simulator", load_simulator(self.simulator, self.model, self.simulator_options))
        object.__setattr__(self, "judge", load_judge(self.judge, self.judge_model, self.judge_options))

    def simulation(self) -> Simulation:
        """The conversations with these settings; scenarios are read on first use."""
        return Simulation(
            self.simulator,
            judge=self.judge,
            scenarios=self.scenarios,
            max_turns=self.max_turns,
            max_length=self.max_length,
        )

    def action_space(self) -> UnicodeText:
        return UnicodeText(self.max_length, min_length=1)

    def observation_space(self) -> spaces.Dict:
        return spaces.Dict(
            user_reply=UnicodeText(self.max_length),
            judge_reward=spaces.Box(0.0, 1.0, shape=(), dtype=np.float32),
            turn=spaces.Discrete(self.max_turns + 1),
        )


def observe(dialogue: Dialogue) -> dict[str, Any]:
    """What the assistant's side sees: the user's reply, the reward once judged (0 until then), and the turn."""
    return {
        "user_reply": dialogue.user_reply,
        "judge_reward": np.asarray(dialogue.reward or 0.0, dtype=np.float32),
        "turn": np.int64(dialogue.turn),
    }


def step_reward(dialogue: Dialogue) -> float:
    """0 while the conversation runs, the judge's value at its end, NaN when there is none because of a fault."""
    if dialogue.end_reason is None:
        return 0.0
    return float("nan") if dialogue.reward is None else float(dialogue.reward)


def describe(dialogue: Dialogue) -> dict[str, Any]:
    """The step's info; never the intent."""
    return {
        "end_reason": dialogue.end_reason,
        "judge_failed": dialogue.end_reason == "judge_fault",
        "fault": None if dialogue.fault is None else str(dialogue.fault),
        "seed": dialogue.seed,
        "scenario_id": dialogue.scenario.id,
    }
