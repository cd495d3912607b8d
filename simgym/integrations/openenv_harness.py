"""OpenEnv's harness for trainers (TRL's AsyncGRPO through `HarnessRolloutWorker`): the user speaks in the user role.

    sessions = SimulatedUserSessions("UserSim-Persona-v0", {"max_turns": 4})
    worker = HarnessRolloutWorker(harness_session_factory=lambda: sessions, harness_adapter=ConversationHarness(), ...)

The trainer samples the policy's turns and keeps their tokens; the session plays the user. A task is a scenario's id, or
the prompt of a row: its last message holds the id, and the system messages before it are the policy's. The trainer's
seed is that of a group, so all rollouts of a group meet the same user. A conversation that was not judged has no
reward, and trainers leave it out; it is never 0. TRL's `build_harness_rollout_func` drops the loss mask: avoid it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simgym.envs.settings import outcome_of
from simgym.envs.shared_simulation import shared_simulation
from simgym.errors import ConfigurationError
from simgym.extras import imports_of, require_extra
from simgym.integrations._scenario_rows import system_messages
from simgym.simulation import Dialogue, Simulation

with imports_of("openenv", "The harness for OpenEnv"):
    from openenv.core.harness import (
        HarnessAdapter,
        HarnessRolloutResult,
        HarnessRunLimits,
        ResourceSession,
        ResourceSessionFactory,
        VerifyResult,
    )


class SimulatedUserSession(ResourceSession):  # type: ignore[misc]
    """One conversation, without tools."""

    def __init__(
        self, simulation: Simulation, scenario_id: str | None, seed: int, system: list[dict[str, object]]
    ) -> None:
        self._simulation = simulation
        self._system = system
        (self.dialogue,) = simulation.open([seed], [scenario_id])

    def initial_messages(self) -> list[dict[str, object]]:
        """The policy's system messages, and the user's first turn."""
        return [*self._system, {"role": "user", "content": self.dialogue.user_reply}]

    def say(self, text: str) -> Dialogue:
        """The policy speaks, and the user answers."""
        (self.dialogue,) = self._simulation.step([self.dialogue], [text])
        return self.dialogue

    def verify(self, transcript: Sequence[Mapping[str, object]], final_state: object = None) -> VerifyResult:
        """The judge's reward; None while the conversation runs, and if it was not judged."""
        reward = self.dialogue.reward if self.dialogue.ended else None
        return VerifyResult(env_reward=reward, done=self.dialogue.ended, metrics=outcome_of(self.dialogue))

    def list_tools(self) -> list[object]:
        """None: the assistant talks."""
        return []

    def call_tool(self, name: str, arguments: Mapping[str, object]) -> object:
        """Refused."""
        raise KeyError(f"There is no tool {name!r}. A simulated user is talked to.")

    def close(self) -> None:
        """Nothing is held."""


class SimulatedUserSessions(ResourceSessionFactory[SimulatedUserSession]):  # type: ignore[misc]
    """Makes a session for each rollout; can be pickled if the settings can."""

    def __init__(self, env_id: str, settings: Mapping[str, object] | None = None) -> None:
        """Choose the users, by an environment and its arguments.

        Raises:
            MissingDependency: openenv has a version that was not tested.
            ConfigurationError: there is no such environment, or a setting is wrong.
        """
        require_extra("openenv", "The harness for OpenEnv")
        self._env_id = env_id
        self._settings = dict(settings or {})
        shared_simulation(env_id, self._settings)  # what is wrong is said now

    def create(self, task: object, seed: int | None = None, episode_id: str | None = None) -> SimulatedUserSession:
        """Begin a conversation.

        Args:
            task: Id of a scenario, or the messages of a prompt, the last of which holds it; None: the seed draws one.
            seed: Decides everything the user says; None: 0.
            episode_id: Ignored.

        Raises:
            ConfigurationError: the task is neither, or there is no such scenario.
        """
        system: list[dict[str, Any]] = []
        if isinstance(task, Sequence) and not isinstance(task, str) and task and isinstance(task[-1], Mapping):
            system, task = system_messages(task), task[-1].get("content")
        if task is not None and not isinstance(task, str):
            raise ConfigurationError(f"The task is a {type(task).__name__}, expected a scenario's id or a prompt.")
        return SimulatedUserSession(shared_simulation(self._env_id, self._settings), task, seed or 0, system)


class ConversationHarness(HarnessAdapter):  # type: ignore[misc]
    """Passes turns between the policy and the user until the user leaves or the turns are used up."""

    def run_white_box(
        self, model_step: Any, session: SimulatedUserSession, limits: HarnessRunLimits | None = None
    ) -> HarnessRolloutResult:
        """A conversation whose assistant's turns are sampled by `model_step`; the tokens are those it reports."""
        limits = limits or HarnessRunLimits()
        messages = session.initial_messages()
        result = HarnessRolloutResult(messages=messages)
        turns = 0
        while not session.dialogue.ended and turns < limits.max_turns:
            step = model_step(list(messages), [], dict(limits.sampling))
            turns += 1
            result.prompt_ids.extend(step.prompt_ids)
            result.completion_ids.extend(step.completion_ids)
            result.logprobs.extend(step.logprobs)
            messages.append({"role": "assistant", "content": step.response.content})
            dialogue = session.say(step.response.content)
            if not dialogue.ended:
                messages.append({"role": "user", "content": dialogue.user_reply})
        result.done = session.dialogue.ended
        result.metrics = {"turns": turns, "tool_calls": 0}
        return result

    def run_black_box(self, session: SimulatedUserSession, limits: HarnessRunLimits | None = None) -> object:
        """Refused: the trainer samples the policy."""
        raise NotImplementedError("A conversation needs a policy that the trainer samples. Call run_white_box.")
