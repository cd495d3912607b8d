"""The arguments that every environment takes, and what they become: spaces and a simulation.

All values can be JSON (names, numbers, mappings), so that `EnvSpec.to_json` keeps them; instances are welcome too, but
then the spec cannot be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
    answer_last_words: bool = True
    """Whether the assistant answers once more when the user leaves with a word (`Thanks, that is all.`); else that word
    ends the conversation. The judge sees it either way. A user who leaves without a word ends it at once."""
    failed_judge_reward: float | Literal["nan", "running_mean"] = "nan"
    """Reward of a conversation that a fault left without a judgement: `nan`, a number in [0, 1], or `running_mean`, the
    mean of the conversations judged so far in this environment (0.5 before the first). NaN is for loops that leave
    such conversations out; in the running variance of `NormalizeReward` it would stay for ever. `info["unjudged"]`
    marks them, whatever their reward."""
    simulator_options: Mapping[str, object] = field(default_factory=dict)
    """Further arguments of the simulator."""
    judge_options: Mapping[str, object] = field(default_factory=dict)
    """Further arguments of the judge."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigurationError(f"max_length is {self.max_length}, expected >= 1.")
        EndRewards(self.failed_judge_reward)
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
            answer_last_words=self.answer_last_words,
        )

    def action_space(self) -> UnicodeText:
        return UnicodeText(self.max_length, min_length=1)

    def observation_space(self) -> spaces.Dict:
        return spaces.Dict(
            user_reply=UnicodeText(self.max_length),
            judge_reward=spaces.Box(0.0, 1.0, shape=(), dtype=np.float32),
            turn=spaces.Discrete(self.max_turns + 1),
        )


def observe(dialogue: Dialogue) -> dict[str, object]:
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


class EndRewards:
    """Rewards of conversations in the order in which they end, with one for those that were not judged."""

    def __init__(self, failed: float | str) -> None:
        """Take `ConversationSettings.failed_judge_reward`.

        Raises:
            ConfigurationError: it is something else.
        """
        number = isinstance(failed, int | float) and not isinstance(failed, bool) and 0 <= failed <= 1
        if not (number or failed in ("nan", "running_mean")):
            raise ConfigurationError(
                f"failed_judge_reward is {failed!r}, expected 'nan', 'running_mean' or a number in [0, 1]."
            )
        self._failed = failed
        self._sum, self._count = 0.0, 0

    def __call__(self, dialogue: Dialogue) -> float:
        """`step_reward`, or what stands for a judgement that there is not."""
        reward = step_reward(dialogue)
        if dialogue.end_reason is None:
            return reward
        if dialogue.reward is not None:
            self._sum, self._count = self._sum + reward, self._count + 1
            return reward
        if self._failed == "running_mean":
            return self._sum / self._count if self._count else 0.5
        return float(self._failed)


def unjudged(dialogue: Dialogue) -> bool:
    """Whether the conversation is over and has no judgement."""
    return dialogue.end_reason is not None and dialogue.reward is None


def describe(dialogue: Dialogue) -> dict[str, object]:
    """The step's info; never the intent."""
    return {
        "end_reason": dialogue.end_reason,
        "judge_failed": dialogue.end_reason == "judge_fault",
        "unjudged": unjudged(dialogue),
        "fault": None if dialogue.fault is None else str(dialogue.fault),
        "seed": dialogue.seed,
        "scenario_id": dialogue.scenario.id,
    }


def outcome_of(dialogue: Dialogue) -> dict[str, Any]:
    """How a conversation stands, for a trainer's log: JSON values, never the intent; `reward` None: not judged."""
    return {**describe(dialogue), "reward": dialogue.reward, "turns": dialogue.turn}
