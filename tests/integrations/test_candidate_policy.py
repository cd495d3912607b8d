from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="the extra simgym[train] is not installed")
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from simgym.assistants import SampledReplies
from simgym.conversation import Conversation
from simgym.errors import ConfigurationError
from simgym.integrations import CandidatePolicy, ConversationFeatures, PolicyAssistant, load_policy
from simgym.language_models import SamplingParams

EACH, COUNT = 3, 4
EARLIER_POLICY = Path(__file__).parents[1] / "earlier_files" / "policy"


def policy_for(size, count=COUNT, net_arch=None):
    box = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
    return CandidatePolicy(box, gymnasium.spaces.Discrete(count), lambda _: 1e-2, net_arch=net_arch)


@pytest.mark.parametrize("net_arch", [[], [8], [8, 4], {"pi": [8], "vf": []}, None])
def test_a_replys_probability_does_not_depend_on_its_place(net_arch):
    policy = policy_for(EACH * (1 + COUNT) + 2, net_arch=net_arch)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    user, replies = torch.randn(EACH + 2), torch.randn(COUNT, EACH)
    order = torch.tensor([2, 0, 3, 1])
    rows = torch.stack([torch.cat([user, replies.flatten()]), torch.cat([user, replies[order].flatten()])])
    plain, shuffled = policy.get_distribution(rows).distribution.probs
    assert shuffled.tolist() == pytest.approx(plain[order].tolist(), rel=1e-5)
    assert plain.std() > 0.01


class Pick(gymnasium.Env):
    """Reward 1 for the reply whose first feature is the largest."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (EACH * (1 + COUNT) + 2,), np.float32)
    action_space = gymnasium.spaces.Discrete(COUNT)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = self.np_random.normal(size=self.observation_space.shape).astype(np.float32)
        return self.seen, {}

    def step(self, action):
        best = self.seen[EACH + 2 :].reshape(COUNT, EACH)[:, 0].argmax()
        return self.seen, float(action == best), True, False, {}


def test_ppo_learns_from_a_thousand_choices_what_makes_a_good_reply():
    model = PPO(
        CandidatePolicy, DummyVecEnv([Pick]), n_steps=64, batch_size=64, n_epochs=8, learning_rate=1e-2, gamma=1.0,
        seed=0, policy_kwargs={"net_arch": [8]}, device="cpu",
    )  # fmt: skip
    first = model.policy.get_distribution(torch.randn(100, *Pick.observation_space.shape)).distribution.probs
    assert (first - 1 / COUNT).abs().max() < 0.1  # begins close to a uniform choice
    model.learn(1024)
    seen = torch.randn(500, *Pick.observation_space.shape)
    chosen = model.policy.get_distribution(seen).distribution.probs.argmax(1)
    best = seen[:, EACH + 2 :].reshape(-1, COUNT, EACH)[..., 0].argmax(1)
    assert (chosen == best).float().mean() > 0.8


def test_a_saved_policy_chooses_as_before(tiny_model, tmp_path):
    talks = [Conversation().add("user", text) for text in ("hello", "who?", "why", "one more", "and two")]
    action_set = SampledReplies(tiny_model, num_candidates=2, sampling=SamplingParams(max_new_tokens=6))
    candidates_N = action_set.propose(talks, seeds=range(5))
    features = ConversationFeatures(tiny_model, layer=1, max_turns=2).fitted(talks, candidates_N=candidates_N, size=3)
    policy = policy_for(features.space(action_set).shape[0], count=2)
    assistant = PolicyAssistant(policy, action_set, features)
    assistant.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy", tiny_model)
    assert type(again.policy) is CandidatePolicy
    assert again.fingerprint() == assistant.fingerprint()
    said = [turn.text for turn in assistant.respond(talks, seeds=range(5))]
    assert [turn.text for turn in again.respond(talks, seeds=range(5))] == said


def test_a_policy_saved_by_an_earlier_version_is_read_and_has_the_same_fingerprint():
    assistant = load_policy(EARLIER_POLICY)
    assert assistant.fingerprint() == json.loads((EARLIER_POLICY / "fingerprint.json").read_text())
    assert assistant.action_set.num_actions == assistant.action_set.num_candidates == 3
    assert assistant.probabilities(np.eye(2, 10, dtype=np.float32)).shape == (2, 3)


def test_features_of_something_else_are_refused():
    with pytest.raises(ConfigurationError, match="observations of size 8"):
        policy_for(8)
