from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import simgym  # noqa: F401  # registers the environments
from simgym.errors import ConfigurationError, EpisodeError, InvalidAction

SCRIPTED = {"judge": "relevance", "judge_model": "scripted:echo"}


def make(n, scenarios, env_id="UserSim-Replay-v0", **options):
    return gym.make_vec(
        env_id, num_envs=n, vectorization_mode="vector_entry_point", scenarios=scenarios, **SCRIPTED, **options
    )


def test_a_conversation_does_not_depend_on_its_neighbours(scenarios, tiny_model):
    options = {"model": tiny_model, "simulator_options": {"max_new_tokens": 8}, "max_turns": 3}

    def play(n, seed, row):
        env = make(n, scenarios, "UserSim-FineTuned-v0", **options)
        replies = [env.reset(seed=seed)[0]["user_reply"][row]]
        replies += [env.step(("Tell me more.",) * n)[0]["user_reply"][row] for _ in range(2)]
        return replies

    alone = gym.make("UserSim-FineTuned-v0", scenarios=scenarios, **options, **SCRIPTED)
    single = [alone.reset(seed=7)[0]["user_reply"]] + [alone.step("Tell me more.")[0]["user_reply"] for _ in range(2)]
    assert play(1, 7, 0) == play(4, 5, 2) == play(9, 0, 7) == single


def test_observations_rewards_and_infos_have_batched_shapes(scenarios):
    env = make(3, scenarios, max_turns=2)
    observation, info = env.reset(seed=[1, 2, 3])
    assert observation in env.observation_space
    assert info["end_reason"].tolist() == [None] * 3
    observation, rewards, terminated, truncated, _ = env.step(("a", "b", "c"))
    assert observation in env.observation_space
    assert rewards.shape == terminated.shape == truncated.shape == (3,)
    assert observation["turn"].tolist() == [1, 1, 1]
    observation, rewards, terminated, truncated, info = env.step(("a", "b", "c"))
    assert terminated.all()
    assert info["end_reason"].tolist() == ["turn_limit"] * 3
    assert np.allclose(rewards, observation["judge_reward"])


def test_next_step_autoreset_ignores_the_action_and_starts_the_next_conversation(scenarios):
    env = make(2, scenarios, max_turns=1)
    env.reset(seed=1)
    _, _, terminated, _, _ = env.step(("a", "b"))
    assert terminated.all()
    observation, rewards, terminated, truncated, info = env.step(("", "ignored"))
    assert not (terminated | truncated).any()
    assert rewards.tolist() == [0, 0]
    assert observation["turn"].tolist() == [0, 0]
    assert (info["seed"] != [1, 2]).all()


def test_disabled_autoreset_keeps_ended_conversations_until_they_are_reset_by_mask(scenarios):
    env = make(2, scenarios, max_turns=1, autoreset_mode="Disabled")
    env.reset(seed=1)
    first = env.step(("a", "b"))[0]
    assert env.step(("c", "d"))[1].tolist() == [0, 0]
    observation, _ = env.reset(options={"reset_mask": np.array([True, False])})
    assert observation["turn"].tolist() == [0, 1]
    assert observation["user_reply"][1] == first["user_reply"][1]
    _, _, terminated, _, _ = env.step(("c", "d"))
    assert terminated.tolist() == [True, True]


def test_scenarios_can_be_asked_for_by_id(scenarios):
    env = make(2, scenarios)
    env.reset(seed=1, options={"scenario_ids": ["s4", None]})
    assert env.unwrapped.scenarios[0].id == "s4"


def test_wrong_use_is_refused_in_a_sentence(scenarios):
    env = make(2, scenarios)
    with pytest.raises(EpisodeError, match=r"reset\(\) first"):
        env.step(("a", "b"))
    env.reset(seed=1)
    for actions, words in [(("a",), "1 actions, expected 2"), ("ab", "one text"), (("a", ""), "empty")]:
        with pytest.raises(InvalidAction, match=words):
            env.step(actions)
    assert env.unwrapped.dialogues[0].turn == 0
    with pytest.raises(ConfigurationError, match="expected 2"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigurationError, match="SameStep"):
        make(2, scenarios, autoreset_mode="SameStep")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasiums_own_vector_environments_hold_the_same_conversations(scenarios, mode):
    options = {"scenarios": scenarios, "max_turns": 2, **SCRIPTED}
    vector_kwargs = {"context": "spawn", "shared_memory": True} if mode == "async" else {}
    env = gym.make_vec(
        "simgym:UserSim-Replay-v0", num_envs=3, vectorization_mode=mode, vector_kwargs=vector_kwargs, **options
    )
    try:
        ours = make(3, scenarios, max_turns=2)
        theirs, expected = env.reset(seed=4)[0], ours.reset(seed=4)[0]
        assert theirs["user_reply"] == expected["user_reply"]
        for _ in range(2):
            theirs, expected = env.step(("ü", "日本", "😀")), ours.step(("ü", "日本", "😀"))
            assert theirs[0]["user_reply"] == expected[0]["user_reply"]
            assert np.allclose(theirs[1], expected[1])
            assert (theirs[2] == expected[2]).all()
    finally:
        env.close()
