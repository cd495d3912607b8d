from __future__ import annotations

import json
import subprocess
import sys

import pytest

skyrl_gym = pytest.importorskip("skyrl_gym", reason="skyrl-gym has an environment of its own")
from simgym.envs.recent_rewards import RecentRewards  # noqa: E402
from simgym.errors import ConfigurationError  # noqa: E402
from simgym.integrations import skyrl  # noqa: E402


@pytest.fixture
def play(env_id, settings, monkeypatch):
    monkeypatch.setattr(skyrl, "_recent_rewards", RecentRewards())
    skyrl.register()
    skyrl.register()  # twice, as every worker may

    def run(row, says, system="be kind"):
        env = skyrl_gym.make("simgym", env_config={}, extras={**row, "settings": settings})
        prompt, _ = env.init([{"role": "system", "content": system}, {"role": "user", "content": "placeholder"}])
        messages, steps = list(prompt), []
        while not (steps and steps[-1]["done"]):
            messages.append({"role": "assistant", "content": says})
            steps.append(env.step(says))
            messages += steps[-1]["observations"]
        return messages, steps, env

    return run


@pytest.fixture
def row(env_id):
    return {"env_id": env_id, "scenario_id": "everyday-creative-010", "seed": 7}


def test_the_user_speaks_in_the_user_role_and_the_row_decides_it(play, row):
    messages, *_ = play(row, "Sure.")
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3]
    assert messages[0]["content"] == "be kind"
    again, *_ = play(row, "Tell me more.")
    heard = [[m["content"] for m in talk if m["role"] == "user"] for talk in (messages, again)]
    assert heard[0] == heard[1]
    other, *_ = play({**row, "seed": 8}, "Sure.")
    assert other[1] != messages[1]


def test_the_reward_and_the_end_reason_arrive(play, row):
    _, steps, env = play(row, "Sure.")
    assert [step["reward"] for step in steps] == [0.0, 0.0, 0.6]
    assert steps[-1]["metadata"]["end_reason"] == "turn_limit"
    assert env.get_metrics() == {"turns": 3, "user_end": 0.0, "reward_imputed": 0.0}
    assert skyrl.SimulatedUserEnv.aggregate_metrics([env.get_metrics()] * 2)["turns"] == 3


@pytest.mark.parametrize(("says", "reason"), [("unjudgeable", "judge_fault"), ("  ", "assistant_fault")])
def test_an_unjudged_conversation_gets_the_mean_of_the_others_and_says_so(play, row, says, reason):
    play(row, "Sure.")
    _, steps, env = play(row, says)
    assert steps[-1]["reward"] == pytest.approx(0.6)
    assert steps[-1]["metadata"]["end_reason"] == reason
    assert steps[-1]["metadata"]["reward"] is None
    assert env.get_metrics()["reward_imputed"] == 1.0


def test_the_data_set_names_scenarios_and_seeds_and_its_rows_can_be_played(env_id, tmp_path):
    settings = {"model": "scripted:seed", "judge": "relevance", "judge_model": "scripted:echo", "max_turns": 1}
    words = [env_id, "train.jsonl", "-n", "3", "--settings", json.dumps(settings)]
    subprocess.run([sys.executable, "-m", "simgym.integrations.skyrl", *words], cwd=tmp_path, check=True)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len({row["seed"] for row in rows}) == len({row["scenario_id"] for row in rows}) == 3
    for row in rows:
        assert row.pop("env_class") == "simgym"
        env = skyrl.SimulatedUserEnv(extras=row)
        env.init(row["prompt"])
        assert env.step("Sure.")["done"]


def test_a_row_of_another_data_set_is_refused_in_a_sentence():
    with pytest.raises(ConfigurationError, match=r"lacks 'env_id'\. Make the data set with skyrl_rows"):
        skyrl.SimulatedUserEnv(extras={"question": "?"})


def test_the_documented_block_runs(documented):
    assert documented("SkyRL").endswith("0.0 False")
