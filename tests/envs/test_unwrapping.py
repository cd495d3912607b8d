from __future__ import annotations

import gymnasium as gym
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit, TransformReward
from gymnasium.wrappers.vector import TransformReward as TransformRewards

import simgym
from simgym.assistants import LanguageModelAssistant
from simgym.envs import env_id_of, simulation_of
from simgym.errors import ConfigurationError
from simgym.evaluation.matrix import make_env
from simgym.rollout import collect

ASSISTANT = LanguageModelAssistant("scripted:well then")
JUDGE = {"judge": "relevance", "judge_model": "scripted:echo"}


def make(scenarios, **options):
    return gym.make("UserSim-Replay-v0", **{"scenarios": scenarios, "max_turns": 2, **JUDGE, **options})


def make_vec(scenarios, mode="vector_entry_point"):
    return gym.make_vec("UserSim-Replay-v0", num_envs=2, vectorization_mode=mode, scenarios=scenarios, **JUDGE)


def double(reward):
    return 2 * reward


def test_an_environment_as_gymnasium_makes_it_is_looked_through(scenarios):
    env = make(scenarios)
    assert env is not env.unwrapped
    assert simulation_of(env) is env.unwrapped.simulation
    assert env_id_of(env) == "UserSim-Replay-v0"
    vector = make_vec(scenarios)
    assert simulation_of(vector) is vector.unwrapped.simulation


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda env: TransformReward(env, double), "TransformReward"),
        (lambda env: RecordEpisodeStatistics(TransformReward(env, double)), "RecordEpisodeStatistics"),
        (lambda env: gym.ObservationWrapper(env), "ObservationWrapper"),
    ],
)
def test_a_wrapper_that_would_have_no_effect_is_refused_by_name(scenarios, wrap, name):
    with pytest.raises(ConfigurationError, match=f"wrapped in {name}, which would have no effect.*without it"):
        collect(ASSISTANT, wrap(make(scenarios)))


def test_a_wrapped_vector_environment_is_refused_too(scenarios):
    with pytest.raises(ConfigurationError, match="wrapped in TransformReward"):
        collect(ASSISTANT, TransformRewards(make_vec(scenarios), double))


def test_a_time_limit_passes_unless_it_would_bind(scenarios):
    assert len(collect(ASSISTANT, TimeLimit(make(scenarios), 2), n=1)) == 1
    with pytest.raises(ConfigurationError, match=r"TimeLimit of 1 steps.*max_turns=1"):
        collect(ASSISTANT, TimeLimit(make(scenarios), 1))


def test_what_is_no_environment_of_simgyms_is_refused_in_a_sentence(scenarios):
    with pytest.raises(ConfigurationError, match=r"CartPole-v1.*expected .*UserSim-Replay-v0"):
        collect(ASSISTANT, gym.make("CartPole-v1"))
    with pytest.raises(ConfigurationError, match=r"SyncVectorEnv.*vector_entry_point"):
        collect(ASSISTANT, make_vec(scenarios, "sync"))
    with pytest.raises(ConfigurationError, match=r"text 'UserSim-Replay-v0'.*gymnasium\.make"):
        collect(ASSISTANT, "UserSim-Replay-v0")
    with pytest.raises(ConfigurationError, match=r"a dict, expected a Simulation"):
        collect(ASSISTANT, {})


def test_an_environment_without_users_cannot_be_made_a_column(scenarios):
    with pytest.raises(ConfigurationError, match=r"'CartPole-v1' has no simulated users.*UserSim-Replay-v0"):
        make_env("CartPole-v1", scenarios, {})


def test_what_is_no_assistant_is_refused_in_a_sentence(scenarios):
    with pytest.raises(ConfigurationError, match=r"text 'gpt-4'.*LanguageModelAssistant\(NAME\)"):
        collect("gpt-4", make(scenarios))
    with pytest.raises(ConfigurationError, match="the class LanguageModelAssistant, expected an object"):
        collect(LanguageModelAssistant, make(scenarios))
    with pytest.raises(ConfigurationError, match="a NoneType, expected an object with respond"):
        collect(None, make(scenarios))


def test_a_simulation_is_collected_from_like_the_environment_over_it(scenarios):
    env = make(scenarios, judge_model="scripted:echo")
    simulation = simgym.Simulation("replay", judge=env.unwrapped.simulation.judge, scenarios=scenarios, max_turns=2)
    ours, theirs = collect(ASSISTANT, simulation, seed=3), collect(ASSISTANT, env, seed=3)
    assert [transcript.content_hash() for transcript in ours] == [transcript.content_hash() for transcript in theirs]
    assert ours[0].env_id == "Simulation"
