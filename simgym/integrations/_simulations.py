"""What the adapters for trainers share: a simulation by the id of an environment, made once a process.

A trainer makes an environment for every conversation. Scenarios are read and models loaded once all the same: equal
arguments give the same `Simulation`, which holds no conversation and may be used from several threads.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from simgym._forks import ForkSafeLock
from simgym.envs.settings import describe
from simgym.envs.unwrapping import env_ids, simulation_of
from simgym.errors import ConfigurationError
from simgym.plugins import unknown
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue, Simulation

_guard = ForkSafeLock()


def shared_simulation(env_id: str, settings: Mapping[str, Any]) -> Simulation:
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


def outcome_of(dialogue: Dialogue) -> dict[str, Any]:
    """How a conversation stands, for a trainer's log: JSON values, never the intent; `reward` None: not judged."""
    return {**describe(dialogue), "reward": dialogue.reward, "turns": dialogue.turn}


def system_messages(prompt: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The system messages at the beginning of a row's prompt; what else it holds makes room for the simulated user."""
    return [dict(message) for message in prompt or () if message.get("role") == "system"]


class RecentRewards:
    """For trainers that know no missing reward: a conversation without one gets the mean of recent rewards."""

    def __init__(self, number: int = 256, unknown: float = 0.5) -> None:
        """Choose what is remembered.

        Args:
            number: How many rewards are averaged.
            unknown: What is given before there is any, in [0, 1].
        """
        self._rewards: deque[float] = deque(maxlen=number)
        self._unknown = unknown
        self._guard = threading.Lock()

    def reward_of(self, dialogue: Dialogue) -> tuple[float, bool]:
        """0 while it runs, then its reward; and whether that was made up because the conversation was not judged."""
        if not dialogue.ended:
            return 0.0, False
        with self._guard:
            if dialogue.reward is not None:
                self._rewards.append(dialogue.reward)
                return dialogue.reward, False
            return (sum(self._rewards) / len(self._rewards) if self._rewards else self._unknown), True
