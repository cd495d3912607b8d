"""REINFORCE in plain PyTorch on the vector environment: what any other training loop has to do.

    python agents/reinforce.py smollm2-135m-instruct UserSim-FineTuned-v0

A vector environment takes one text a conversation and gives a reward at the end; NaN stands for a conversation that
has no judgement, which is left out. Nothing here is tuned: `grpo.py` and `ppo.py` are what trains.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import simgym  # noqa: F401  # registers the environments
from simgym.language_models import resolve_weights

UNTEMPERED = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
"""The log-probabilities below are those of this sampling, whatever the model's own defaults."""


def reinforce(policy: Any, tokenizer: Any, env: Any, *, updates: int, learning_rate: float, tokens: int) -> list[float]:
    """Train the policy in place; the mean reward of each update."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    curve = []
    for update in range(updates):
        observation, _ = env.reset(seed=update * env.num_envs)
        talks = [[{"role": "user", "content": text}] for text in observation["user_reply"]]
        rewards, over, logprobs = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=bool), []
        while not over.all():
            inputs = tokenizer.apply_chat_template(
                talks, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            with torch.no_grad():
                written = policy.generate(**inputs, **UNTEMPERED, max_new_tokens=tokens)
            start = inputs["input_ids"].shape[1]
            replies = tokenizer.batch_decode(written[:, start:], skip_special_tokens=True)
            replies = [text if text.strip() else "..." for text in replies]
            mask = torch.cat([inputs["attention_mask"], torch.ones_like(written[:, start:])], dim=1)
            logits = policy(written, attention_mask=mask).logits[:, start - 1 : -1]
            each = logits.log_softmax(-1).gather(-1, written[:, start:, None])[..., 0]
            ends = torch.isin(written[:, start:], torch.tensor(policy.generation_config.eos_token_id)).int()
            ours = (ends.cumsum(1) - ends == 0) & ~torch.tensor(over)[:, None]  # up to the first end, while it runs
            logprobs.append((each * ours).sum(1))
            observation, gained, terminated, truncated, _ = env.step(tuple(replies))
            rewards, over = np.where(over, rewards, rewards + gained), terminated | truncated
            for talk, reply, user in zip(talks, replies, observation["user_reply"], strict=True):
                talk += [{"role": "assistant", "content": reply}, {"role": "user", "content": user or "..."}]
        judged = torch.tensor(np.isfinite(rewards))
        advantage = torch.tensor(np.nan_to_num(rewards - np.nanmean(rewards)), dtype=torch.float32)
        loss = -(advantage * torch.stack(logprobs).sum(0))[judged].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(float(np.nanmean(rewards)))
        print(f"update {update}: mean reward {curve[-1]:.3f}, {int((~judged).sum())} without a judgement", flush=True)
    return curve


if __name__ == "__main__":
    name, env_id = sys.argv[1:]
    path = resolve_weights(name).path
    reinforce(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True),
        AutoTokenizer.from_pretrained(path, padding_side="left"),
        gym.make_vec(
            env_id, num_envs=8, max_turns=2, vectorization_mode="vector_entry_point", autoreset_mode="Disabled"
        ),
        updates=20,
        learning_rate=1e-5,
        tokens=48,
    )
