"""From a name to a user simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from simgym.errors import UnknownName
from simgym.language_models.loading import LanguageModelSpec
from simgym.loading import load_role
from simgym.plugins import unknown
from simgym.registration import environments
from simgym.simulators.base import UserSimulator


def load_simulator(
    simulator: str | UserSimulator, model: LanguageModelSpec | None = None, options: Mapping[str, Any] | None = None
) -> UserSimulator:
    """The simulator called `simulator`, or the instance itself.

    Args:
        simulator: A registered name (`role_play`, `persona`, `fine_tuned`, `replay`, `mixture`, `human`, or a
            plug-in's), `py:module:Class`, or a `UserSimulator`.
        model: For simulators that take a model, unless `options` has one; None: their own default.
        options: Further constructor arguments.

    Raises:
        UnknownName: no simulator has that name, or the simulator has no such option.
        ConfigurationError: it does not take these arguments, or the object is not a simulator.
    """
    return load_role("simulators", UserSimulator, simulator, model, options)  # type: ignore[type-abstract]


def simulator_of(env_id: str) -> str:
    """Registered name of the simulator behind an environment id.

    Raises:
        UnknownName: no environment of user simulators has that id.
    """
    if env_id not in gymnasium.registry:
        environments()  # those of other packages
    simulators = {
        registered: spec.kwargs["simulator"]
        for registered, spec in gymnasium.registry.items()
        if isinstance(spec.kwargs.get("simulator"), str)
    }
    if env_id not in simulators:
        raise UnknownName(unknown("environment", env_id, list(simulators)))
    return str(simulators[env_id])
