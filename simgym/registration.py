"""The table of environments: id -> simulator and what makes it that one; registered with Gymnasium as strings.

Every id is the same environment class with another simulator, so swapping the training partner is swapping the id.
Nothing is imported before `gym.make`.

Another package has a table of its own, a sequence of `SimulatorEnv`, under the entry-point group `simgym.environments`.
As with any package of Gymnasium environments, Python code imports it; where ids are read from a command line or a file,
the tables of all installed packages are registered first (`environments`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import gymnasium

from simgym.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class SimulatorEnv:
    """One row of the table."""

    env_id: str
    """Gymnasium id."""
    simulator: str
    """Registered name of the user simulator, or `py:module:Class`."""
    summary: str
    """What plays the user, in a line."""
    kwargs: Mapping[str, object] = field(default_factory=dict)
    """Defaults of this id, on top of those of the environment."""


ENVIRONMENTS: tuple[SimulatorEnv, ...] = (
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
"""The environments of simgym's own."""


NUMERIC_ENV = "UserSimReplies-v0"
"""Conversations as numbers, for RL libraries that take no text; see `simgym.envs.numeric`."""


def register_environments(rows: Sequence[SimulatorEnv] = ENVIRONMENTS) -> None:
    """Register a table of environments; doing so twice changes nothing.

    Args:
        rows: The table; default: simgym's own.

    Raises:
        ConfigurationError: an id is none that Gymnasium takes, or stands for another environment.
    """
    for row in rows:
        _register(row.env_id, {"simulator": row.simulator, **row.kwargs})
    if NUMERIC_ENV not in gymnasium.registry:
        gymnasium.register(
            NUMERIC_ENV,
            entry_point="simgym.envs.numeric_single:RepliesEnv",
            vector_entry_point="simgym.envs.numeric:RepliesVectorEnv",
        )


@functools.cache
def environments() -> Mapping[str, SimulatorEnv]:
    """All environments by id, those of other packages included, which this registers with Gymnasium.

    A table that cannot be imported or registered is left out with a warning: it concerns its own package alone.
    """
    from simgym.plugins import available, find  # reads the metadata of all packages, which `import simgym` must not

    by_id = {row.env_id: row for row in ENVIRONMENTS}
    for name in available("environments"):
        try:
            rows = read_table(find("environments", name))
            register_environments(rows)
        except (ImportError, AttributeError, ConfigurationError) as error:
            warnings.warn(f"The environments of the plug-in {name!r} are left out: {error}", stacklevel=2)
        else:
            by_id.update({row.env_id: row for row in rows})
    return by_id


def read_table(table: object) -> tuple[SimulatorEnv, ...]:
    """A plug-in's table.

    Raises:
        ConfigurationError: it is not a sequence of `SimulatorEnv`.
    """
    rows = tuple(table) if isinstance(table, Sequence) else (table,)
    for row in rows:
        if not isinstance(row, SimulatorEnv):
            raise ConfigurationError(f"It holds a {type(row).__name__}, expected a sequence of SimulatorEnv.")
    return rows


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
    kwargs: dict[str, object] = {"simulator": simulator}
    own = next((row for row in environments().values() if row.simulator == simulator), None)
    if own is not None:
        kwargs, env_id = {"simulator": simulator, **own.kwargs}, env_id or own.env_id
    env_id = env_id or f"UserSim-{simulator.removeprefix('py:').replace(':', '.')}-v0"
    _register(env_id, kwargs)
    return env_id


def register_variant(env_id: str, base: str) -> None:
    """Register another id for an environment, so that one simulator with two sets of options makes two columns.

    Args:
        env_id: The new id, `UserSim-NAME-v0`; one that is there is kept if it stands for the same.
        base: An id of simgym's.

    Raises:
        ConfigurationError: the base is none of simgym's, or the id is taken by something else.
    """
    rows = environments()
    if base not in rows:
        raise ConfigurationError(f"{base!r} is no environment of simgym's. Expected one of {', '.join(rows)}.")
    _register(env_id, {"simulator": rows[base].simulator, **rows[base].kwargs})


def _register(env_id: str, kwargs: dict[str, object]) -> None:
    if env_id in gymnasium.registry:
        if gymnasium.registry[env_id].kwargs != kwargs:
            raise ConfigurationError(f"{env_id!r} is registered as another environment. Choose another id.")
        return
    try:
        gymnasium.register(
            env_id,
            entry_point="simgym.envs.conversation_env:ConversationEnv",
            vector_entry_point="simgym.envs.vector_env:UserSimVectorEnv",
            kwargs=kwargs,
        )
    except gymnasium.error.Error as error:
        raise ConfigurationError(f"{env_id!r} is no environment id: {error}. Expected UserSim-NAME-v0.") from error
