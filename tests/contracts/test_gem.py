from __future__ import annotations

import math

import pytest

gem = pytest.importorskip("gem", reason="gem-llm has an environment of its own")
from simgym.integrations import gem as simgym_gem  # noqa: E402


@pytest.fixture
def make(settings):
    simgym_gem.register()
    simgym_gem.register()
    return lambda **arguments: gem.make("simgym:RolePlay", **settings, **arguments)


def test_equal_seeds_give_equal_users_and_other_seeds_others(make):
    first, second = make(), make()
    assert first.reset(seed=7)[0] == second.reset(seed=7)[0] != make().reset(seed=8)[0]
    assert first.step("Sure.")[0] == second.step("Tell me more.")[0] != ""


def test_a_spawned_environment_is_in_the_same_conversation_and_leaves_the_first_alone(make):
    env = make()
    env.reset(seed=7)
    env.step("Sure.")
    branch = env.spawn(same_state=True)
    text, reward, terminated, *_ = branch.step("Again.")
    assert (reward, terminated) == (0.0, False)
    assert branch.step("And again.")[2]
    assert env.step("Again.")[:3] == (text, 0.0, False)
    assert env.spawn().reset(seed=7)[0] == make().reset(seed=7)[0]


def test_the_reward_and_the_end_reason_arrive_and_an_unjudged_conversation_is_not_0(make):
    for says, reward, reason in (("Sure.", 0.6, "turn_limit"), ("unjudgeable", math.nan, "judge_fault")):
        env = make()
        env.reset(seed=7)
        steps = [env.step(says) for _ in range(3)]
        assert [step[1] for step in steps] == pytest.approx([0.0, 0.0, reward], nan_ok=True)
        assert steps[-1][4]["end_reason"] == reason
        assert steps[-1][2:4] == ((True, False) if reason == "turn_limit" else (False, True))


def test_a_vector_of_them_has_different_users(make, settings):
    vector = gem.make_vec(["simgym:RolePlay"] * 3, **settings)
    texts, _ = vector.reset()
    assert len(set(texts)) == 3


def test_the_documented_block_runs(documented):
    assert documented("GEM") == "True"
