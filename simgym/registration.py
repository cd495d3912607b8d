"""The table of environments: id -> simulator and what makes it that one; registered with Gymnasium as strings.

Every id is the same environment class with another simulator, so swapping the training partner is swapping the id.
Nothing is imported before `gym.make`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from simgym.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class SimulatorEnv:
    """One row of the table."""

    env_id: str
    """Gymnasium id."""
    simulator: str
    """Registered name of the user simulator."""
    summary: str
    """What plays the user, in a line."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of this id, on top of those of the environment."""


ENVIRONMENTS = (
    SimulatorEnv("UserSim-RolePlay-v0", "role_play", "prompted model, writes its own opening from the intent"),
    SimulatorEnv(
        "UserSim-RolePlayOpening-v0", "role_play_opening", "prompted model, starts from the scenario's real opening"
    ),
    SimulatorEnv("UserSim-Persona-v0", "persona", "prompted model with a persona per scenario, real opening"),
    SimulatorEnv(
        "UserSim-FineTuned-v0",
        "fine_tuned",
        "model fine-tuned on real user turns; an adapter on the default model is shipped",
    ),
    SimulatorEnv(
        "UserSim-Replay-v0", "replay", "a real person's recorded turns, played back", {"scenarios": "chitchat"}
    ),
    SimulatorEnv("UserSim-Mixture-v0", "mixture", "one of several simulators, drawn per scenario"),
    SimulatorEnv("UserSim-Human-v0", "human", "a person at the terminal"),
)


def register_environments() -> None:
    """Register all ids; doing so twice changes nothing."""
    for row in ENVIRONMENTS:
        if row.env_id not in gymnasium.registry:
            _register(row.env_id, {"simulator": row.simulator, **row.kwargs})


def register_simulator(simulator: str, env_id: str | None = None) -> str:
    """An environment id for a simulator that has none: an installed plug-in, or `py:module:Class`.

    The id depends on the simulator's name alone (`UserSim-my_users-v0`, `UserSim-module.Class-v0`), so that a run that
    is continued finds its files; a simulator that simgym registers keeps its own id.

    Args:
        simulator: Registered name, or `py:module:Class`.
        env_id: Another id, for one simulator with two sets of options.

    Returns:
        The id, which `gym.make` takes from now on in this process.

    Raises:
        ConfigurationError: the id stands for another simulator, or cannot be one.
    """
    kwargs: dict[str, Any] = {"simulator": simulator}
    for row in ENVIRONMENTS:
        if row.simulator == simulator:
            kwargs, env_id = {"simulator": simulator, **row.kwargs}, env_id or row.env_id
    env_id = env_id or f"UserSim-{simulator.removeprefix('py:').replace(':', '.')}-v0"
    if env_id not in gymnasium.registry:
        try:
            _register(env_id, kwargs)
        except gymnasium.error.Error as error:
            raise ConfigurationError(f"{env_id!r} is no environment id: {error}. Expected UserSim-NAME-v0.") from error
    elif gymnasium.registry[env_id].kwargs != kwargs:
        raise ConfigurationError(f"{env_id!r} is registered as another environment. Choose another name.")
    return env_id


def register_variant(env_id: str, base: str) -> None:
    """Register another id for an environment, so that one simulator with two sets of options makes two columns.

    Args:
        env_id: The new id, `UserSim-NAME-v0`; one that is there is kept if it stands for the same.
        base: An id of simgym's.

    Raises:
        ConfigurationError: the base is none of simgym's, or the id is taken by something else.
    """
    known = {row.env_id: {"simulator": row.simulator, **row.kwargs} for row in ENVIRONMENTS}
    if base not in known:
        raise ConfigurationError(f"{base!r} is no environment of simgym's. Expected one of {', '.join(known)}.")
    if env_id in gymnasium.registry:
        if gymnasium.registry[env_id].kwargs != known[base]:
            raise ConfigurationError(f"{env_id!r} is registered as another environment. Choose another id.")
        return
    try:
        _register(env_id, known[base])
    except gymnasium.error.Error as error:
        raise ConfigurationError(f"{env_id!r} is no environment id: {error}. Expected UserSim-NAME-v0.") from error


def _register(env_id: str, kwargs: dict[str, Any]) -> None:
    gymnasium.register(
        env_id,
        entry_point="simgym.envs.conversation_env:ConversationEnv",
        vector_entry_point="simgym.envs.vector_env:UserSimVectorEnv",
        kwargs=kwargs,
    )
