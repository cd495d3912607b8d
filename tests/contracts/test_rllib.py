from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ormsgpack", reason="ray[rllib] has an environment of its own")
pytest.importorskip("torch", reason="the features are hidden states of a model in this process")


@pytest.fixture
def env_config(env_id, settings, tmp_path):
    from simgym.testing import save_tiny_model

    model = str(save_tiny_model(tmp_path / "model"))
    return {**settings, "env_id": env_id, "assistant_model": model, "layer": 1}


def test_one_rllib_ppo_iteration_runs_on_simulated_users(env_config):
    from gymnasium import VectorizeMode
    from ray.rllib.algorithms.ppo import PPOConfig

    config = (
        PPOConfig()
        .environment("simgym:UserSimReplies-v0", env_config=env_config)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length="auto",
                     gym_env_vectorize_mode=VectorizeMode.VECTOR_ENTRY_POINT)
        .training(train_batch_size_per_learner=32, minibatch_size=16, num_epochs=1)
    )  # fmt: skip
    algorithm = config.build_algo()
    result = algorithm.train()
    runners = result["env_runners"]
    assert runners["num_episodes"] > 0
    assert runners["episode_return_mean"] == pytest.approx(0.6)
    assert runners["episode_len_mean"] == 3
    algorithm.stop()


def test_equal_seeds_give_equal_users_and_the_end_reason_arrives(env_config):
    import gymnasium

    ends = []
    users = []
    for seed in (7, 7, 8):
        env = gymnasium.make_vec(
            "simgym:UserSimReplies-v0", num_envs=2, vectorization_mode="vector_entry_point", **env_config
        )
        env.reset(seed=seed)
        for _ in range(3):
            *_, infos = env.step(np.zeros(2, int))
        ends += infos["end_reason"].tolist()
        users.append([dialogue.conversation.said_by("user") for dialogue in env.unwrapped.dialogues])
    assert users[0] == users[1] != users[2]
    assert set(ends) == {"turn_limit"}


def test_the_documented_block_runs(documented, smollm):
    assert 0 < float(documented("RLlib")) < 1
