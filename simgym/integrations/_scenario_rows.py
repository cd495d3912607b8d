"""Rows of a trainer's data set: each names a scenario and a seed, so that all replies of a group meet the same user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from simgym.envs.shared_simulation import shared_simulation
from simgym.errors import ConfigurationError
from simgym.seeding import derive_seed


def scenario_rows(
    env_id: str, settings: Mapping[str, object], *, n: int | None, seed: int, system: str | None
) -> list[dict[str, object]]:
    """Rows of a trainer's data set, `prompt`, `scenario_id` and `seed` each; scenarios in turn.

    Args:
        env_id: `UserSim-...`, whose scenarios are taken.
        settings: Arguments of the environment.
        n: Number of rows; None: each scenario once.
        seed: Decides the seed of every row's user.
        system: System message of the policy; None: none.
    """
    scenarios = list(shared_simulation(env_id, settings).scenarios.values())
    before = [] if system is None else [{"role": "system", "content": system}]
    rows = []
    for number in range(len(scenarios) if n is None else n):
        scenario = scenarios[number % len(scenarios)]
        # the user's turn keeps the place of what the simulation is going to say
        prompt = [*before, {"role": "user", "content": scenario.opening or scenario.id}]
        rows.append({"prompt": prompt, "scenario_id": scenario.id, "seed": derive_seed(seed, "row", number)})
    return rows


def json_settings(settings: Mapping[str, object] | None) -> dict[str, Any]:
    """Arguments of an environment as the JSON values that a file holds.

    Raises:
        ConfigurationError: one is no JSON value.
    """
    try:
        return dict(json.loads(json.dumps(dict(settings or {}))))
    except TypeError as error:
        raise ConfigurationError(f"The settings are written to a file and hold an instance ({error}).") from error


def system_messages(prompt: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The system messages at the beginning of a row's prompt; what else it holds makes room for the simulated user."""
    return [dict(message) for message in prompt or () if message.get("role") == "system"]
