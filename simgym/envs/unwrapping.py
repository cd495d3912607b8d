"""The simulation inside an environment, for whoever runs its conversations without calling `env.step`.

`collect` and the trainers step many conversations together, so a wrapper that changes rewards, observations, actions or
the length of a conversation would have no effect. Rather than to ignore it, it is refused here, by name. The wrappers
that `gymnasium.make` itself adds only check how an environment is called, and pass.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from simgym.envs.conversation_env import ConversationEnv
from simgym.envs.vector_env import UserSimVectorEnv
from simgym.errors import ConfigurationError
from simgym.registration import environments
from simgym.simulation import Simulation

_CHECKS_ONLY = (OrderEnforcing, PassiveEnvChecker)


def simulation_of(env: object) -> Simulation:
    """The simulation of an environment; a simulation is returned as it is.

    Args:
        env: A `Simulation`, or a single or vector environment of simgym's.

    Raises:
        ConfigurationError: it is something else, or wrapped in something that would have no effect.
    """
    if isinstance(env, Simulation):
        return env
    limits: list[int] = []
    while isinstance(env, gymnasium.Wrapper | VectorWrapper):
        if isinstance(env, TimeLimit):
            limits.append(env._max_episode_steps)
        elif not isinstance(env, _CHECKS_ONLY):
            raise ConfigurationError(_ignored(type(env).__name__))
        env = env.env
    if not isinstance(env, ConversationEnv | UserSimVectorEnv):
        raise ConfigurationError(_foreign(env))
    max_turns = env.simulation.max_turns
    if limits and min(limits) < max_turns:
        raise ConfigurationError(
            f"The environment is wrapped in a TimeLimit of {min(limits)} steps, which would have no effect: "
            f"its conversations have up to {max_turns} turns. Leave it out and make the environment with "
            f"max_turns={min(limits)}."
        )
    return env.simulation


def env_id_of(env: Any) -> str:
    """What transcripts call the environment: its Gymnasium id, or the name of its class."""
    base = env if isinstance(env, Simulation) else env.unwrapped
    spec = getattr(base, "spec", None)
    return str(spec.id) if spec is not None else type(base).__name__


def env_ids() -> list[str]:
    """Ids of all environments of user simulators, those of other packages included."""
    return sorted({*environments(), *(env_id for env_id in gymnasium.registry if env_id.startswith("UserSim-"))})


def _ignored(wrapper: str) -> str:
    return (
        f"The environment is wrapped in {wrapper}, which would have no effect: its conversations are run together, "
        "without calls of the wrapper's step. Pass the environment without it, and do what it does in a judge, an "
        "assistant, or with the transcripts; or step the environment yourself."
    )


def _foreign(env: object) -> str:
    expected = f"expected a Simulation or one of simgym's environments: {', '.join(env_ids())}"
    if isinstance(env, str):
        return f"The environment is the text {env!r}, {expected}. Make it with gymnasium.make({env!r})."
    if isinstance(env, VectorEnv):
        return (
            f"The environment is a {type(env).__name__}, {expected}. Make it with "
            "gymnasium.make_vec(..., vectorization_mode='vector_entry_point')."
        )
    spec = getattr(env, "spec", None)
    named = f"{spec.id} ({type(env).__name__})" if spec is not None else f"a {type(env).__name__}"
    return f"The environment is {named}, {expected}."
