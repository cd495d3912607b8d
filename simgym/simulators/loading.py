"""From a name to a user simulator."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium

from simgym.errors import ConfigurationError, UnknownName
from simgym.language_models.loading import LanguageModelSpec
from simgym.plugins import find, unknown
from simgym.simulators.base import UserSimulator


def load_simulator(
    simulator: str | UserSimulator, model: LanguageModelSpec | None = None, options: Mapping[str, Any] | None = None
) -> UserSimulator:
    """The simulator called `simulator`, or the instance itself.

    Args:
        simulator: A registered name (`role_play`, `persona`, `fine_tuned`, `replay`, `mixture`, `human`, or a
            plug-in's), or a `UserSimulator`.
        model: Passed on to simulators that take a model; None: their own default.
        options: Further constructor arguments.

    Raises:
        UnknownName: no simulator has that name.
        ConfigurationError: it does not take these arguments, or the object is not a simulator.
    """
    if not isinstance(simulator, str):
        if not isinstance(simulator, UserSimulator):
            raise ConfigurationError(
                f"A simulator is a {type(simulator).__name__}, expected a name or an object with open, reply and "
                "fingerprint."
            )
        return simulator
    factory = find("simulators", simulator)
    arguments = dict(options or {})
    if model is not None and "model" in inspect.signature(factory).parameters:
        arguments["model"] = model
    try:
        made: UserSimulator = factory(**arguments)
    except TypeError as error:
        raise ConfigurationError(f"The simulator {simulator!r} cannot be made: {error}.") from error
    return made


def takes_option(simulator: str, option: str) -> bool:
    """Whether the simulator called `simulator` has a constructor argument `option`, its own or passed on."""
    parameters = inspect.signature(find("simulators", simulator)).parameters.values()
    return any(one.name == option or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def simulator_of(env_id: str) -> str:
    """Registered name of the simulator behind an environment id.

    Raises:
        UnknownName: no environment of user simulators has that id.
    """
    row = gymnasium.registry.get(env_id)
    simulator = row.kwargs.get("simulator") if row is not None else None
    if not isinstance(simulator, str):
        known = [known for known, spec in gymnasium.registry.items() if isinstance(spec.kwargs.get("simulator"), str)]
        raise UnknownName(unknown("environment", env_id, known))
    return simulator
