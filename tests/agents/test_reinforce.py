from __future__ import annotations

import importlib.util
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from simgym.judges import Judgement

RECIPE = Path(__file__).resolve().parents[2] / "agents" / "reinforce.py"


class Vowels:
    """The share of vowels; one scenario is never judged."""

    def judge(self, scenarios, conversations, *, seeds):
        judgements = []
        for scenario, conversation in zip(scenarios, conversations, strict=True):
            said = "".join(conversation.said_by("assistant"))
            share = sum(letter in "aeiou" for letter in said) / len(said)
            failed = scenario.id == "s3"
            judgements.append(Judgement(None, fault="timeout: on purpose") if failed else Judgement(share))
        return judgements

    def fingerprint(self):
        return {"judge": "vowels"}


def test_the_plain_loop_trains_a_policy_over_two_turns(tiny_model, scenarios):
    specification = importlib.util.spec_from_file_location("reinforce_recipe", RECIPE)
    recipe = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(recipe)
    torch.manual_seed(0)
    env = gym.make_vec(
        "UserSim-Replay-v0", num_envs=16, scenarios=scenarios, judge=Vowels(), max_turns=2, autoreset_mode="Disabled",
        vectorization_mode="vector_entry_point",
    )  # fmt: skip
    curve = recipe.reinforce(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
        AutoTokenizer.from_pretrained(tiny_model, padding_side="left"),
        env,
        updates=25,
        learning_rate=3e-3,
        tokens=8,
    )
    assert np.isfinite(curve).all()
    assert np.mean(curve[-5:]) > 2 * np.mean(curve[:5])
