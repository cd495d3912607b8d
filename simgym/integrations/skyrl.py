"""SkyRL over simulated users: an environment of skyrl-gym, and the rows of its data set.

    rows = skyrl_rows("UserSim-Persona-v0", n=1000, seed=0, settings={"max_turns": 4})
    register()                                  # in the process that runs SkyRL's generator
    # environment.env_class=simgym data.train_data="['train.jsonl']" ...

`python -m simgym.integrations.skyrl UserSim-Persona-v0 train.jsonl -n 1000` writes the rows to a file. A row names a
scenario and a seed, so all replies of a group meet the same user. The policy is given the user's turns in the user
role, behind the system messages of the row's prompt. SkyRL knows no missing reward: a conversation that was not judged
gets the mean of recent rewards, which pulls the policy in no direction; the metric `reward_imputed` counts them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from simgym.envs.recent_rewards import RecentRewards
from simgym.envs.settings import outcome_of
from simgym.envs.shared_simulation import shared_simulation
from simgym.errors import ConfigurationError, EpisodeError
from simgym.extras import imports_of, require_extra
from simgym.integrations._scenario_rows import json_settings, scenario_rows, system_messages
from simgym.output_files import write_whole
from simgym.simulation import Dialogue

with imports_of("skyrl", "The environment for SkyRL"):
    import skyrl_gym
    from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

ENV_CLASS = "simgym"
"""The `env_class` of rows, and the id under which the environment is registered."""
_recent_rewards = RecentRewards()


def register() -> None:
    """Register the environment with skyrl-gym; doing so twice changes nothing.

    Raises:
        MissingDependency: skyrl-gym has a version that was not tested.
    """
    require_extra("skyrl", "The environment for SkyRL")
    if ENV_CLASS not in skyrl_gym.envs.registration.registry:
        skyrl_gym.register(id=ENV_CLASS, entry_point="simgym.integrations.skyrl:SimulatedUserEnv")


def skyrl_rows(
    env_id: str,
    *,
    n: int | None = None,
    seed: int = 0,
    system: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> list[dict[str, object]]:
    """Rows for SkyRL's data set: those of `scenario_rows`, with the settings, which have to be JSON values.

    Raises:
        ConfigurationError: there is no such environment, or a setting is wrong or no JSON value.
    """
    settings = json_settings(settings)
    written = {"env_class": ENV_CLASS, "env_id": env_id, "settings": json.dumps(settings)}
    return [{**row, **written} for row in scenario_rows(env_id, settings, n=n, seed=seed, system=system)]


class SimulatedUserEnv(BaseTextEnv):
    """One conversation; `extras` is a row of `skyrl_rows`."""

    def __init__(self, env_config: Any = None, extras: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        extras = extras or {}
        if missing := [name for name in ("env_id", "scenario_id", "seed") if name not in extras]:
            raise ConfigurationError(f"The row lacks {missing[0]!r}. Make the data set with skyrl_rows.")
        settings = extras.get("settings") or {}
        self._simulation = shared_simulation(
            extras["env_id"], json.loads(settings) if isinstance(settings, str) else settings
        )
        self._row = extras
        self._dialogue: Dialogue | None = None
        self._imputed = False
        self.max_turns = self._simulation.max_turns

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """The system messages of the prompt, and the user's first turn; an opening that failed ends with `step`."""
        (self._dialogue,) = self._simulation.open([int(self._row["seed"])], [self._row["scenario_id"]])
        opening = {"role": "user", "content": self._dialogue.user_reply}
        return [*system_messages(prompt), opening], outcome_of(self._dialogue)

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """The policy speaks; what no conversation can take (a blank reply, say) ends it without a judgement."""
        if self._dialogue is None:
            raise EpisodeError("There is no conversation yet. Call init() first.")
        (dialogue,) = self._simulation.step([self._dialogue], [action])
        self._dialogue, self.turns = dialogue, dialogue.turn
        reward, self._imputed = _recent_rewards.reward_of(dialogue)
        said = [] if dialogue.ended else [{"role": "user", "content": dialogue.user_reply}]
        metadata = {**outcome_of(dialogue), "reward_imputed": self._imputed}
        return BaseTextEnvStepOutput(observations=said, reward=reward, done=dialogue.ended, metadata=metadata)

    def get_metrics(self) -> dict[str, object]:
        """Averaged by SkyRL over conversations: turns, and the shares that the user ended and that were not judged."""
        ended_by_user = self._dialogue is not None and self._dialogue.end_reason == "user_end"
        return {"turns": self.turns, "user_end": float(ended_by_user), "reward_imputed": float(self._imputed)}


def main() -> None:
    """Write a data set."""
    parser = argparse.ArgumentParser(description="Write rows for SkyRL.")
    parser.add_argument("env_id")
    parser.add_argument("output")
    parser.add_argument("-n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={}, help="arguments of the environment, as JSON")
    args = parser.parse_args()
    rows = skyrl_rows(args.env_id, n=args.n, seed=args.seed, settings=args.settings)
    write_whole(args.output, "".join(f"{json.dumps(row)}\n" for row in rows))


if __name__ == "__main__":
    main()
