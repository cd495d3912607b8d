"""OpenEnv: a simulated user as an environment server, for the Hugging Face Hub and OpenEnv's clients.

    simgym serve --openenv UserSim-Persona-v0 --setting max_turns=4

The action is what the assistant says, the observation what the user says. Each session is a conversation of its own;
sessions share the simulation and its models. The Task API lists the scenarios: `reset(split="train", index=3)` or
`reset(scenario_id=...)` chooses one, and equal seeds give equal users. The reward is 0 while the conversation runs, the
judge's at its end, and None (never 0) if the conversation was not judged. Faults are data, too: `end_reason` names
them, `metadata["fault"]` says what happened.

OpenEnv gives a conversation to a model as JSON or as a tool's result. To train a policy on turns in the user role, take
`simgym.integrations.openenv_harness`. A package for the Hub is made by `simgym export ENV --to openenv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simgym._version import __version__
from simgym.envs.conversation_env import next_seed
from simgym.envs.settings import outcome_of
from simgym.envs.shared_simulation import shared_simulation
from simgym.errors import ConfigurationError, EpisodeError
from simgym.extras import imports_of, require_extra
from simgym.simulation import Dialogue, Simulation

with imports_of("openenv", "The server for OpenEnv"):
    from openenv.core.env_server.http_server import create_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import EnvironmentMetadata

    from simgym.integrations.openenv_models import AssistantTurn, ConversationState, UserTurnObservation

MAX_SESSIONS = 64
"""Conversations at once."""
SPLIT = "train"
"""The one split of the Task API: all scenarios. A task is a scenario's id."""


class SimulatedUserEnvironment(Environment[AssistantTurn, UserTurnObservation, ConversationState]):
    """One session."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env_id: str, simulation: Simulation) -> None:
        super().__init__()
        self.simulation = simulation
        self._env_id = env_id
        self._dialogue: Dialogue | None = None
        self._state = ConversationState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        scenario_id: str | None = None,
    ) -> UserTurnObservation:
        """Begin a conversation; without a scenario the seed draws one."""
        if index is not None:
            scenario_id = self.get_task(SPLIT if split is None else split, index)["id"]
        scenarios = None if scenario_id is None else [scenario_id]
        (dialogue,) = self.simulation.open([next_seed(seed, self._dialogue)], scenarios)
        self._dialogue = dialogue
        self._state = ConversationState(episode_id=episode_id, scenario_id=dialogue.scenario.id, seed=dialogue.seed)
        return _observation(dialogue)

    def step(self, action: AssistantTurn, timeout_s: float | None = None) -> UserTurnObservation:
        """The assistant speaks; what no conversation can take (a blank reply, say) ends it without a judgement."""
        if self._dialogue is None:
            raise EpisodeError("There is no conversation yet. Call reset() first, in a session (/ws) of your own.")
        (self._dialogue,) = self.simulation.step([self._dialogue], [action.message])
        self._state.step_count = self._dialogue.turn
        return _observation(self._dialogue)

    @property
    def state(self) -> ConversationState:
        """Scenario, seed and turns."""
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """What the server says of itself."""
        description = f"{self._env_id}: a simulated user to talk to; the reward is a judge's, in [0, 1]."
        return EnvironmentMetadata(name=self._env_id, description=description, version=__version__)

    def list_splits(self) -> list[str]:
        """All scenarios are one split."""
        return [SPLIT]

    def num_tasks(self, split: str) -> int:
        """Number of scenarios."""
        return len(self._tasks(split))

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """A scenario's id; what the user wants is theirs to say."""
        tasks = self._tasks(split)
        if not 0 <= index < len(tasks):
            raise IndexError(f"There is no task {index}, expected 0 to {len(tasks) - 1}.")
        return {"id": tasks[index], "index": index}

    def list_tasks(self, split: str) -> list[dict[str, object]]:
        """Ids of all scenarios."""
        return [{"id": task, "index": index} for index, task in enumerate(self._tasks(split))]

    def _tasks(self, split: str) -> list[str]:
        if split != SPLIT:
            raise ValueError(f"There is no split {str(split)[:40]!r}, expected {SPLIT}.")
        return list(self.simulation.scenarios)


def create_openenv_app(
    env_id: str, settings: Mapping[str, Any] | None = None, *, pinned_judge: Mapping[str, object] | None = None
) -> object:
    """The ASGI application of OpenEnv's server; `pinned_judge` is the fingerprint that the judge must have, if any.

    Raises:
        ConfigurationError: there is no such environment, a setting is wrong, or the judge is another one.
        MissingDependency: openenv has a version that was not tested.
    """
    require_extra("openenv", "The server for OpenEnv")
    simulation = shared_simulation(env_id, settings or {})
    judge = dict(simulation.judge.fingerprint())
    if pinned_judge is not None and judge != dict(pinned_judge):
        raise ConfigurationError(
            f"The rewards of this package are those of the judge {dict(pinned_judge)}, here it would be {judge}. "
            "Install the versions that the package names, or export it again."
        )
    return create_app(
        lambda: SimulatedUserEnvironment(env_id, simulation),
        AssistantTurn,
        UserTurnObservation,
        env_name="simgym",
        max_concurrent_envs=MAX_SESSIONS,
        state_cls=ConversationState,
    )


def _observation(dialogue: Dialogue) -> UserTurnObservation:
    outcome = outcome_of(dialogue)
    return UserTurnObservation(
        user_reply=dialogue.user_reply,
        done=dialogue.ended,
        reward=outcome.pop("reward") if dialogue.ended else 0.0,
        end_reason=outcome.pop("end_reason"),
        metadata=outcome,
    )
