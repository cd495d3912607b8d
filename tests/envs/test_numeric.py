from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from simgym.envs.numeric import RepliesVectorEnv
from simgym.errors import ConfigurationError, EpisodeError
from simgym.judges.base import Judgement
from simgym.simulators import UserTurn


class Turns:
    """Says the seed; judges by length, except conversations of a user that it cannot judge."""

    def __init__(self, unjudgeable=(), silent=()):
        self.unjudgeable, self.silent = unjudgeable, silent

    def open(self, scenarios, *, seeds):
        return [
            UserTurn("", fault="empty") if scenario.id in self.silent else UserTurn(f"hello {seed}")
            for scenario, seed in zip(scenarios, seeds, strict=True)
        ]

    def reply(self, scenarios, conversations, *, seeds):
        return [UserTurn(f"and {seed}") for seed in seeds]

    def judge(self, scenarios, conversations, *, seeds):
        return [
            Judgement(None, fault="unparsable: ?") if scenario.id in self.unjudgeable else Judgement(0.8)
            for scenario in scenarios
        ]

    def fingerprint(self):
        return {"judge": "turns"}


@pytest.fixture
def arguments(tiny_model, scenarios):
    turns = Turns()
    return {"assistant_model": tiny_model, "layer": 1, "simulator": turns, "judge": turns, "max_turns": 2,
            "scenarios": scenarios[:3], "env_id": "UserSim-Human-v0"}  # fmt: skip


def test_any_library_finds_it_by_name_and_gymnasiums_checker_has_no_objection(arguments):
    import simgym  # noqa: F401  # registers it

    env = gymnasium.make("UserSimReplies-v0", **arguments)
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    rewards = [env.step(0)[1] for _ in range(2)]
    assert rewards == [0.0, 0.8]
    with pytest.raises(EpisodeError, match="has ended"):
        env.step(0)


def test_a_row_of_the_vector_is_the_single_environment_of_its_seed(arguments):
    vector = gymnasium.make_vec("UserSimReplies-v0", num_envs=3, vectorization_mode="vector_entry_point", **arguments)
    batch, _ = vector.reset(seed=5)
    batch_after, rewards, *_ = vector.step(np.array([1, 2, 3]))
    for row in range(3):
        env = gymnasium.make("UserSimReplies-v0", **arguments)
        observation, _ = env.reset(seed=5 + row)
        after, reward, *_ = env.step(1 + row)
        np.testing.assert_allclose(observation, batch[row], atol=1e-5)
        np.testing.assert_allclose(after, batch_after[row], atol=1e-5)
        assert reward == rewards[row]


def test_the_step_after_the_end_begins_the_next_conversation(arguments):
    vector = RepliesVectorEnv(num_envs=2, **arguments)
    vector.reset(seed=0)
    first = [dialogue.seed for dialogue in vector.dialogues]
    vector.step(np.zeros(2, int))
    _, rewards, terminated, truncated, infos = vector.step(np.zeros(2, int))
    assert rewards.tolist() == [0.8, 0.8]
    assert terminated.all()
    assert not truncated.any()
    assert infos["end_reason"].tolist() == ["turn_limit"] * 2
    _, rewards, terminated, *_ = vector.step(np.zeros(2, int))
    assert rewards.tolist() == [0.0, 0.0]
    assert not terminated.any()
    assert all(dialogue.seed not in first and dialogue.turn == 0 for dialogue in vector.dialogues)


def test_an_unjudged_conversation_gets_the_mean_of_the_others_and_says_so(arguments, scenarios):
    turns = Turns(unjudgeable={scenarios[1].id}, silent={scenarios[2].id})
    vector = RepliesVectorEnv(num_envs=6, **{**arguments, "simulator": turns, "judge": turns})
    vector.reset(seed=0)
    marked = []
    for _ in range(8):
        _, rewards, terminated, truncated, infos = vector.step(np.zeros(6, int))
        ended = np.flatnonzero(terminated | truncated)
        assert {round(rewards[row], 6) for row in ended} <= {0.8, 0.5}  # 0.5 before any reward was seen
        assert not rewards[~(terminated | truncated)].any()
        marked += [(infos["scenario_id"][row], bool(infos["reward_imputed"][row])) for row in ended]
    assert set(marked) == {(scenarios[0].id, False), (scenarios[1].id, True), (scenarios[2].id, True)}


def test_wrong_arguments_are_refused_in_a_sentence(arguments):
    with pytest.raises(ConfigurationError, match="actions is 'words', expected strategies or sampled_replies"):
        RepliesVectorEnv(**{**arguments, "actions": "words"})
    with pytest.raises(ConfigurationError, match="Unknown environment 'UserSim-Nobody-v0'"):
        RepliesVectorEnv(**{**arguments, "env_id": "UserSim-Nobody-v0"})
