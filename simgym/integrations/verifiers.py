"""verifiers 0.4, and through it prime-rl and the Environments Hub: scenarios as a taskset, the user as its environment.

    vf-eval simgym_verifiers -n 4 -r 2 --no-push --env.assistant.runtime.type subprocess \
        --env.taskset.env-id UserSim-Persona-v0 --env.taskset.settings '{"max_turns": 4}'

A task is a scenario with a seed, so all rollouts of a task meet the same user. The policy is given the user's turns in
the user role. On its trace stand the reward `simgym` (none, not 0, if the conversation was not judged), the metrics
`turns` and `judged`, and in `info["simgym"]` the end reason and the fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from simgym.envs.settings import outcome_of
from simgym.envs.shared_simulation import shared_simulation
from simgym.extras import imports_of, require_extra
from simgym.seeding import derive_seed

with imports_of("verifiers", "The environment for verifiers"):
    from verifiers.v1 import AgentConfig, Env, EnvConfig, Task, TaskData, Taskset, TasksetConfig


class ScenarioData(TaskData):  # type: ignore[misc]
    """One row: who is met."""

    scenario_id: str
    """Id of the scenario in the environment's set."""
    seed: int
    """Decides everything the user says."""


class ConversationTask(Task[ScenarioData]):  # type: ignore[misc]
    """A conversation with the user of a row; the judge's reward is recorded by the environment."""


class ScenariosConfig(TasksetConfig):  # type: ignore[misc]
    """Which rows there are."""

    env_id: str = "UserSim-Persona-v0"
    """Whose scenarios."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the environment, as JSON values."""
    system_prompt: str | None = None
    """System message of the policy."""
    seed: int = 0
    """Decides the seed of every row."""


class Scenarios(Taskset[ConversationTask, ScenariosConfig]):  # type: ignore[misc]
    """Every scenario of an environment once."""

    def load(self) -> Iterator[ConversationTask]:
        """The rows, without a prompt: the user speaks first."""
        require_extra("verifiers", "The environment for verifiers")
        config = self.config
        for number, scenario_id in enumerate(shared_simulation(config.env_id, config.settings).scenarios):
            yield ConversationTask(
                ScenarioData(
                    idx=number,
                    prompt=None,
                    system_prompt=config.system_prompt,
                    scenario_id=scenario_id,
                    seed=derive_seed(config.seed, "row", number),
                ),
                config.task,
            )


class SimulatedUserConfig(EnvConfig):  # type: ignore[misc]
    """Who answers; who plays the user is the taskset's to say."""

    assistant: AgentConfig = AgentConfig(harness={"id": "null"})
    """The policy, without tools."""
    taskset: ScenariosConfig = ScenariosConfig()
    """Scenarios, and the arguments of the environment."""


class SimulatedUser(Env[SimulatedUserConfig]):  # type: ignore[misc]
    """A conversation between the policy and a simulated user, on the policy's trace."""

    async def run(self, task: ConversationTask, agents: Any) -> None:
        """Open, and pass turns between the two until the user leaves or the turns are used up."""
        config = self.config.taskset
        simulation = shared_simulation(config.env_id, config.settings)
        opened = await asyncio.to_thread(simulation.open, [task.data.seed], [task.data.scenario_id])
        (dialogue,) = opened
        async with agents.assistant.interaction(task) as talk:
            while not dialogue.ended:
                segment = await talk.turn(dialogue.user_reply)
                if segment.terminated:
                    break
                (dialogue,) = await asyncio.to_thread(simulation.step, [dialogue], [segment.last_reply])
        outcome = outcome_of(dialogue)
        talk.trace.info["simgym"] = {**outcome, "scenario_id": task.data.scenario_id}
        talk.trace.record_metrics({"turns": dialogue.turn, "judged": float(dialogue.reward is not None)})
        if dialogue.reward is not None:
            talk.trace.record_reward("simgym", dialogue.reward)


__all__ = ["Scenarios", "SimulatedUser"]
