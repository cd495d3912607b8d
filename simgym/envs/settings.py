"""The arguments that every environment takes, and what they become: spaces and episodes.

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
from simgym.data.scenario_sets import load_scenarios
from simgym.envs.episodes import Episode, Episodes
from simgym.envs.spaces import UnicodeText, has_surrogates
from simgym.errors import ConfigurationError, InvalidAction
from simgym.judges.base import Judge
from simgym.judges.loading import load_judge
from simgym.language_models.loading import LanguageModelSpec
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

    def episodes(self) -> Episodes:
        """The conversations' mechanism; scenarios are read on first use."""
        source, simulator, judge = self.scenarios, self.simulator, self.judge
        return Episodes(
            simulator=lambda: simulator,  # type: ignore[arg-type,return-value]  # made in __post_init__
            judge=lambda: judge,  # type: ignore[arg-type,return-value]
            scenarios=lambda: load_scenarios(source) if isinstance(source, str) else source,
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

    def check_action(self, action: Any) -> str:
        """The action as a text.

        Raises:
            InvalidAction: it is not a text, empty, too long, or holds lone surrogates.
        """
        if not isinstance(action, str):
            raise InvalidAction(f"The action is a {type(action).__name__}, expected a str: what the assistant says.")
        if not action.strip():
            raise InvalidAction("The action is empty. The assistant has to say something.")
        if len(action) > self.max_length:
            raise InvalidAction(
                f"The action has {len(action)} characters, at most {self.max_length} are allowed. "
                "Shorten it, or raise max_length."
            )
        if has_surrogates(action):
            raise InvalidAction(
                "The action holds a lone surrogate, which no UTF-8 text can. Decode it with errors='replace'."
            )
        return str(action)


def observe(episode: Episode) -> dict[str, Any]:
    """What the assistant's side sees: the user's reply, the reward once judged (0 until then), and the turn."""
    return {
        "user_reply": episode.user_reply,
        "judge_reward": np.asarray(episode.reward or 0.0, dtype=np.float32),
        "turn": np.int64(episode.turn),
    }


def step_reward(episode: Episode) -> float:
    """0 while the conversation runs, the judge's value at its end, NaN when there is none because of a fault."""
    if episode.end_reason is None:
        return 0.0
    return float("nan") if episode.reward is None else float(episode.reward)


def describe(episode: Episode) -> dict[str, Any]:
    """The step's info; never the intent."""
    return {
        "end_reason": episode.end_reason,
        "judge_failed": episode.end_reason == "judge_fault",
        "fault": episode.fault,
        "seed": episode.seed,
        "scenario_id": episode.scenario.id,
    }
