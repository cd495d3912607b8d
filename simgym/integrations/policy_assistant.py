"""A policy that stable-baselines3 has trained, as an assistant; a saved one is a folder of safetensors and JSON.

    PolicyAssistant.from_model(model).save("policy")

`simgym.integrations.policy_files` reads the folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simgym.assistants.action_sets import ActionSet
from simgym.assistants.base import AssistantTurn
from simgym.assistants.training_record import TrainingRecord
from simgym.conversation import Conversation
from simgym.envs.features import ConversationFeatures
from simgym.errors import ConfigurationError
from simgym.integrations.stable_baselines3 import TextVecEnv
from simgym.seeding import derive_seed
from simgym.transcripts import text_hash

Array = np.ndarray[Any, Any]
ACTIVATIONS = ("Tanh", "ReLU", "GELU", "SiLU", "ELU", "LeakyReLU")
"""Activation functions of policies that can be saved."""
POLICY, SETTINGS = "policy.safetensors", "policy.json"


class PolicyAssistant:
    """A trained policy as an assistant; implements `Assistant`, so it goes wherever an assistant does."""

    def __init__(
        self,
        policy: Any,
        action_set: ActionSet,
        features: ConversationFeatures,
        *,
        deterministic: bool = True,
        training: TrainingRecord | None = None,
    ) -> None:
        """Wrap a trained policy.

        Args:
            policy: An actor-critic policy of stable-baselines3 (`model.policy`).
            action_set: What its actions mean.
            features: What it observes.
            deterministic: Take the most probable action; else sample one by the turn's seed.
            training: How it was trained, to be saved with it; see `from_model`.
        """
        self.policy, self.action_set, self.features = policy, action_set, features
        self.deterministic = deterministic
        self.training = training

    @classmethod
    def from_model(cls, model: Any, *, deterministic: bool = True) -> PolicyAssistant:
        """The policy of a model of stable-baselines3 with the record of its training so far.

        Args:
            model: An actor-critic algorithm (`PPO`, `A2C`) on a `TextVecEnv`.
            deterministic: As for the constructor.

        Raises:
            ConfigurationError: the model's environment is another one.
        """
        env = model.get_env()
        base = getattr(env, "unwrapped", env)
        if not isinstance(base, TextVecEnv):
            raise ConfigurationError(f"The model was trained on a {type(base).__name__}, expected a TextVecEnv.")
        return cls(
            model.policy,
            base.action_set,
            base.features,
            deterministic=deterministic,
            training=base.training_record(method=type(model).__name__.lower(), steps=model.num_timesteps),
        )

    def respond(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[AssistantTurn]:
        candidates_N = self.action_set.propose(conversations, seeds=seeds)
        probabilities = self.probabilities(self.features(conversations, candidates_N))
        if self.deterministic:
            actions = [int(row.argmax()) for row in probabilities]
        else:
            numbers = [np.random.default_rng(derive_seed(seed, "policy")).random() for seed in seeds]
            actions = [
                min(int(np.searchsorted(row.cumsum(), number)), self.action_set.num_actions - 1)
                for row, number in zip(probabilities, numbers, strict=True)
            ]
        return self.action_set.apply(conversations, candidates_N, actions, seeds=seeds)

    def probabilities(self, observations: Array) -> Array:
        """Probability of each action, shape (N, `num_actions`)."""
        import torch

        with torch.inference_mode():
            batch = torch.as_tensor(observations, device=self.policy.device)
            probabilities: Array = self.policy.get_distribution(batch).distribution.probs.cpu().numpy()
        return probabilities

    def fingerprint(self) -> dict[str, Any]:
        weights = self.policy.state_dict()
        joined = "".join(weights[name].cpu().numpy().tobytes().hex() for name in sorted(weights))
        return {
            "assistant": "policy",
            "weights": text_hash(joined),
            # What is hashed keeps the key of earlier versions, so that their runs can be continued.
            "choices": self.action_set.to_json(),
            "features": self.features.to_json(),
            "deterministic": self.deterministic,
        }

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load_policy` reads: weights as safetensors, settings as JSON (keys of earlier versions).

        Raises:
            ConfigurationError: the policy has an activation function that could not be restored.
        """
        from safetensors.numpy import save_file

        activation = str(self.policy.activation_fn.__name__)
        if activation not in ACTIVATIONS:
            raise ConfigurationError(f"The policy uses {activation}, expected one of {', '.join(ACTIVATIONS)}.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"policy.{name}": value.cpu().numpy() for name, value in self.policy.state_dict().items()}
        if self.features.projection is not None:
            tensors["projection.mean"] = self.features.projection.mean
            tensors["projection.components"] = self.features.projection.components
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / POLICY)
        settings = {
            "choices": self.action_set.to_json(),
            "features": self.features.to_json(),
            "policy": type(self.policy).__name__,
            "net_arch": self.policy.net_arch,
            "activation": activation,
            "deterministic": self.deterministic,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        if self.training is not None:
            self.training.save(folder)
