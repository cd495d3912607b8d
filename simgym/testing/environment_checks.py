"""Does a plug-in keep its promises? One check each for scenario sets and environments; see `checks` for the others.

    check_scenarios("my_scenarios")
    check_env("UserSim-Grumpy-v0", model="scripted:seed", judge="relevance", judge_model="scripted:echo")

A set has to give the same scenarios each time, with ids of their own, that go to JSON and back, and openings that do
not give the hidden intent away. An environment has to pass Gymnasium's checker, to end, to hide the intent, and to give
the same conversation for the same seed, alone and among others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env as check_gymnasium_env

from simgym.conversation import Scenario, has_surrogates
from simgym.data.scenario_sets import find_scenario_set, load_scenarios
from simgym.envs.conversation_env import ConversationEnv
from simgym.envs.vector_env import UserSimVectorEnv
from simgym.simulators.loading import simulator_of
from simgym.testing._rules import fail

_SEEDS = (51, 52, 53)


def check_scenarios(source: str | Callable[[], Sequence[Scenario]], *, limit: int = 50) -> None:
    """Check that a scenario set keeps the rules.

    Args:
        source: Name of a set, `py:module:name`, path of a JSONL file, or a function that returns scenarios.
        limit: How many scenarios are read, >= 2.

    Raises:
        UnknownName: there is no such set.
        ConfigurationError: a rule is broken; the message names it.
    """
    name = source if isinstance(source, str) else getattr(source, "__name__", "the function")
    name = f"The scenario set {name}"
    scenarios = _read(source, limit)
    if len(scenarios) > limit:
        fail(f"{name} gave {len(scenarios)} scenarios for a limit of {limit}")
    if _read(source, limit) != scenarios:
        fail(f"{name} gave other scenarios, or another order, when it was read again. Resumed runs need the same")
    if _read(source, 1) != scenarios[:1]:
        fail(f"{name} does not begin with the same scenario when fewer are asked for. Keep one order")
    repeated = [key for key, count in Counter(scenario.id for scenario in scenarios).items() if count > 1]
    if repeated:
        fail(f"{name} holds the id {repeated[0]!r} twice. Results are paired and resumed by the id")
    for scenario in scenarios:
        _check_scenario(name, scenario)
    if isinstance(source, str):
        _check_size(name, source, limit, len(scenarios))


def check_env(env_id: str, **settings: Any) -> None:
    """Check that an environment of user simulators keeps the rules.

    Args:
        env_id: Its id; a plug-in's table is registered by this.
        settings: Arguments of `gymnasium.make`, for example a small model and judge; conversations have three turns.

    Raises:
        UnknownName: no environment of user simulators has that id.
        ConfigurationError: a rule is broken; the message names it.
    """
    simulator_of(env_id)  # registers those of other packages
    settings = {"max_turns": 3, **settings}
    env = gymnasium.make(env_id, **settings)
    if not isinstance(env.unwrapped, ConversationEnv):
        fail(f"{env_id} makes a {type(env.unwrapped).__name__}, expected simgym's environment. Register a SimulatorEnv")
    alone = [_converse(env, seed) for seed in _SEEDS]
    if alone != [_converse(env, seed) for seed in _SEEDS]:
        fail(f"{env_id} gave two conversations for the same seed. Draw everything random from the seed")
    vector = gymnasium.make_vec(
        env_id, num_envs=len(_SEEDS), vectorization_mode="vector_entry_point", autoreset_mode="Disabled", **settings
    )
    if alone != _converse_together(vector):
        fail(f"{env_id} gave other conversations alone than among others. Let each depend on its own seed only")
    try:
        check_gymnasium_env(env.unwrapped, skip_render_check=True)
    except AssertionError as error:
        fail(f"{env_id} does not pass Gymnasium's checker: {error}")
    try:
        json.dumps(env.unwrapped.simulation.simulator.fingerprint(), allow_nan=False)
    except (TypeError, ValueError) as error:
        fail(f"The fingerprint of {env_id}'s simulator is not strict JSON ({error})")


def _read(source: str | Callable[[], Sequence[Scenario]], limit: int) -> list[Scenario]:
    if isinstance(source, str):
        return load_scenarios(source, limit=limit)
    scenarios = list(source())[:limit]
    if not scenarios or not all(isinstance(scenario, Scenario) for scenario in scenarios):
        fail(f"{source} returned {scenarios[:1]}, expected a sequence of scenarios")
    return scenarios


def _check_scenario(name: str, scenario: Scenario) -> None:
    if Scenario.from_json(json.loads(json.dumps(scenario.to_json()))) != scenario:
        fail(f"{name}: {scenario.id!r} changes when it is written as JSON and read again")
    if any(has_surrogates(text) for text in (scenario.id, scenario.intent, scenario.opening or "")):
        fail(f"{name}: {scenario.id!r} holds a lone surrogate. Replace it; no UTF-8 file can hold it")
    if not scenario.goal.strip():
        fail(f"{name}: the intent of {scenario.id!r} says nothing but its fixed opening words")
    if scenario.opening is not None and scenario.goal.strip().lower() in scenario.opening.lower():
        fail(f"{name}: the opening of {scenario.id!r} contains its hidden intent. Let the user reveal it")


def _check_size(name: str, source: str, limit: int, count: int) -> None:
    if source.endswith(".jsonl"):
        return
    size = find_scenario_set(source if source.startswith("py:") else source.partition(":")[0]).size
    if size is not None and count != min(size, limit):
        fail(f"{name} says that it has {size} scenarios, and gave {count} for a limit of {limit}")


def _converse(env: gymnasium.Env[Any, Any], seed: int) -> tuple[list[dict[str, str]], str | None]:
    """Messages and end reason; what the assistant is shown on the way must not hold the intent."""
    conversation = env.unwrapped
    assert isinstance(conversation, ConversationEnv)  # for type checkers; checked before
    observation, info = env.reset(seed=seed)
    ended, turn = False, 0
    while True:
        if conversation.scenario.intent in f"{observation} {info}":
            fail("The observation or the info holds the hidden intent. Keep it out of what the assistant sees")
        if ended:
            break
        if turn == conversation.simulation.max_turns:
            fail(f"The conversation has not ended after {turn} turns")
        observation, _, terminated, truncated, info = env.step(_said(turn))
        ended, turn = terminated or truncated, turn + 1
    return conversation.dialogue.conversation.to_json(), conversation.dialogue.end_reason


def _converse_together(env: Any) -> list[tuple[list[dict[str, str]], str | None]]:
    vector = env.unwrapped
    assert isinstance(vector, UserSimVectorEnv)  # for type checkers
    vector.reset(seed=list(_SEEDS))
    for turn in range(vector.simulation.max_turns):
        vector.step((_said(turn),) * len(_SEEDS))
    return [(dialogue.conversation.to_json(), dialogue.end_reason) for dialogue in vector.dialogues]


def _said(turn: int) -> str:
    return ("Gladly. Tell me more.", "Which of them matters most?", "Then take the second.")[turn % 3]
