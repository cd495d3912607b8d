"""rLLM: a flow whose policy talks with a simulated user; rLLM's gateway records the tokens.

    rllm eval tasks --agent simgym            # found by its entry point

A task's metadata name the user: `scenario_id` and `seed` (rollouts of a task share them), and may hold `env_id`,
`settings` and `system`. A conversation that was not judged has the reward None; the trajectory's metadata say why.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from simgym.errors import MissingDependency
from simgym.integrations.policy_url import PolicyUrl, play, rewarded
from simgym.seeding import derive_seed

ENV_ID = "UserSim-Persona-v0"
"""The environment of tasks that name none."""


class SimulatedUserFlow:
    """rLLM's `AgentFlow`."""

    def run(self, task: Any, config: Any) -> Any:
        """One rollout.

        Args:
            task: rLLM's `Task`, or its row as a mapping.
            config: `base_url`, `model` and `session_uid` of the rollout.

        Raises:
            MissingDependency: rllm is not installed.
        """
        try:
            types = importlib.import_module("rllm.types")
        except ModuleNotFoundError as error:
            raise MissingDependency("rllm is not installed. Its documentation says how; it is on no index.") from error
        row = dict(task if isinstance(task, Mapping) else task.metadata)
        identity = str(row.get("scenario_id") or getattr(task, "id", ""))
        seed = row.get("seed")
        transcript = play(
            PolicyUrl(base_url=config.base_url, model=config.model, system=row.get("system")),
            str(row.get("env_id", ENV_ID)),
            scenario_id=row.get("scenario_id"),
            seed=derive_seed(0, "task", identity) if seed is None else int(seed),
            settings=row.get("settings") or {},
        )
        outcome = rewarded(transcript)
        trajectory = types.Trajectory(name="assistant", task=task, reward=transcript.reward, metadata=outcome)
        return types.Episode(task=task, trajectories=[trajectory], metadata=outcome)
