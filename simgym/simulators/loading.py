"""From a name to a user simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from simgym.errors import ConfigurationError, UnknownName
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.model_spec import check_named_model
from simgym.plugins import find, make, options_of, takes_any_option, unknown
from simgym.registration import environments
from simgym.simulators.base import UserSimulator


def load_simulator(
    simulator: str | UserSimulator, model: LanguageModelSpec | None = None, options: Mapping[str, Any] | None = None
) -> UserSimulator:
    """The simulator called `simulator`, or the instance itself.

    Args:
        simulator: A registered name (`role_play`, `persona`, `fine_tuned`, `replay`, `mixture`, `human`, or a
            plug-in's), `py:module:Class`, or a `UserSimulator`.
        model: Passed on to simulators that take a model; None: their own default.
        options: Further constructor arguments.

    Raises:
        UnknownName: no simulator has that name, or the simulator has no such option.
        ConfigurationError: it does not take these arguments, or the object is not a simulator.
    """
    if not isinstance(simulator, str):
        if not isinstance(simulator, UserSimulator):
            raise ConfigurationError(
                f"A simulator is a {type(simulator).__name__}, expected a name or an object with open, reply and "
                "fingerprint."
            )
        return simulator
    arguments = dict(options or {})
    if (given := arguments.get("model", model)) is not None:
        check_named_model(given)
        if takes_option(simulator, "model"):
            arguments["model"] = given
    loaded = make("simulators", simulator, arguments)
    if not isinstance(loaded, UserSimulator):
        raise ConfigurationError(
            f"{simulator} makes a {type(loaded).__name__}, expected an object with open, reply and fingerprint."
        )
    return loaded


def takes_option(simulator: str, option: str) -> bool:
    """Whether the simulator called `simulator` has a constructor argument `option`, its own or passed on."""
    factory = find("simulators", simulator)
    return option in options_of(factory) or takes_any_option(factory)


def simulator_of(env_id: str) -> str:
    """Registered name of the simulator behind an environment id.

    Raises:
        UnknownName: no environment of user simulators has that id.
    """
    if env_id not in gymnasium.registry:
        environments()  # those of other packages
    row = gymnasium.registry.get(env_id)
    simulator = row.kwargs.get("simulator") if row is not None else None
    if not isinstance(simulator, str):
        known = [known for known, spec in gymnasium.registry.items() if isinstance(spec.kwargs.get("simulator"), str)]
        raise UnknownName(unknown("environment", env_id, known))
    return simulator
