"""A simulation by the id of an environment, made once a process.

A trainer makes an environment for every conversation. Scenarios are read and models loaded once all the same: equal
arguments give the same `Simulation`, which holds no conversation and may be used from several threads.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from simgym._forks import ForkSafeLock
from simgym.envs.unwrapping import env_ids, simulation_of
from simgym.errors import ConfigurationError
from simgym.plugins import unknown
from simgym.simulation import Simulation

_guard = ForkSafeLock()


def shared_simulation(env_id: str, settings: Mapping[str, object]) -> Simulation:
    """The simulation of an environment; equal arguments that are JSON values give the same one.

    Args:
        env_id: `UserSim-...`.
        settings: Arguments of the environment.

    Raises:
        ConfigurationError: there is no such environment, or an argument is wrong.
    """
    try:
        text = json.dumps(settings, sort_keys=True)
    except TypeError:  # instances: whoever passes one keeps it
        return _make(env_id, settings)
    with _guard:
        return _from_json(env_id, text)


@functools.lru_cache(maxsize=32)
def _from_json(env_id: str, settings: str) -> Simulation:
    return _make(env_id, json.loads(settings))


def _make(env_id: str, settings: Mapping[str, Any]) -> Simulation:
    import gymnasium

    known = env_ids()
    if env_id not in known:
        raise ConfigurationError(unknown("environment", env_id, known))
    return simulation_of(gymnasium.make(env_id, **settings))
