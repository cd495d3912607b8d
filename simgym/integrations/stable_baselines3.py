"""stable-baselines3 over simulated users: a batched `VecEnv`, and a trained policy as an assistant.

    vec_env = TextVecEnv("UserSim-Persona-v0", Strategies(), features, num_envs=16, seed=0, max_turns=2)
    model = PPO("MlpPolicy", vec_env, n_steps=4, batch_size=64).learn(2000)
    PolicyAssistant.from_model(model).save("policy")

stable-baselines3 takes no text, so actions are numbers of an action set and observations are vectors of features (see
`simgym.integrations.features`). `TextVecEnv` steps all conversations with one model call per role. stable-baselines3
cannot leave out a step, so a conversation that ends without a reward because of a fault gets the mean of recent
rewards, which pulls the policy in no direction; `info["reward_imputed"]` marks it, and `faults` counts such
conversations by kind. When all fail because a server does not answer, `reset` and `step` raise `ServerUnavailable`.

A saved policy is a folder of safetensors and JSON; loading it unpickles nothing.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simgym.assistants.action_sets import ActionSet, Candidates, action_set_from_json
from simgym.assistants.base import AssistantTurn
from simgym.assistants.training_record import TrainingRecord, read_training_record
from simgym.conversation import Conversation
from simgym.envs.settings import describe
from simgym.envs.vector_env import UserSimVectorEnv
from simgym.errors import ConfigurationError, WeightsError
from simgym.extras import optional_import
from simgym.faults import fault_label
from simgym.integrations.features import ConversationFeatures, Projection
from simgym.integrations.outages import check_servers
from simgym.jsonl import read_json
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.model_spec import ModelSpec
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue
from simgym.transcripts import text_hash
from simgym.typed_json import from_json

optional_import("stable_baselines3", "train")  # says which extra brings it
from stable_baselines3.common.vec_env import VecEnv  # noqa: E402

Array = np.ndarray[Any, Any]
ACTIVATIONS = ("Tanh", "ReLU", "GELU", "SiLU", "ELU", "LeakyReLU")
"""Activation functions of policies that can be saved."""
POLICY, SETTINGS = "policy.safetensors", "policy.json"
_MAX_FAILED_OPENINGS = 20
"""Openings that may fail in a row before the simulator counts as broken."""
_NUM_RECENT_REWARDS, _UNKNOWN_REWARD = 256, 0.5
"""How many recent rewards are averaged to impute a missing one, and what is imputed before there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowsState:
    """What `TextVecEnv.state` says, as a checkpoint holds it."""

    rows: tuple[Mapping[str, Any], ...]
    """A dialogue's JSON values a row."""
    episodes_begun: tuple[int, ...]
    """Conversations that each row has begun."""
    faults: Mapping[str, int]
    """Conversations without a reward, by kind of fault."""
    latest_rewards: tuple[float, ...]
    """In [0, 1], oldest first."""


class TextVecEnv(VecEnv):
    """N conversations for stable-baselines3, with one model call per role and step."""

    render_mode = None

    def __init__(
        self,
        env_id: str,
        action_set: ActionSet,
        features: ConversationFeatures,
        *,
        num_envs: int = 8,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Make the environments.

        Args:
            env_id: `UserSim-...`.
            action_set: What the actions mean.
            features: What the observations are; its `max_turns` should be that of the environment.
            num_envs: N.
            seed: Decides the scenario and all randomness of the users of every conversation: row r's cth conversation
                has the same scenario and seed whatever the policy does and whoever simulates the user.
            settings: Arguments of the environment.

        Raises:
            ConfigurationError: `env_id` is not one of simgym's environments, or an argument is wrong.
        """
        import gymnasium

        env = gymnasium.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **settings)
        base = env.unwrapped
        if not isinstance(base, UserSimVectorEnv):
            raise ConfigurationError(f"{env_id} is a {type(base).__name__}, expected one of simgym's (UserSim-...).")
        self.env_id, self.env = env_id, base
        self.action_set, self.features, self.seed_ = action_set, features, seed
        self.conversations_begun = [0] * num_envs
        """Conversations that each row has begun."""
        self.faults: Counter[str] = Counter()
        """Conversations without a reward, by kind of fault."""
        self._recent_rewards: deque[float] = deque(maxlen=_NUM_RECENT_REWARDS)
        self._restored = False
        self._rows: list[Dialogue] = []
        self._candidates_N: list[Candidates] = []
        self._observations = np.zeros((0, 0), dtype=np.float32)
        self._actions: list[int] = []
        import gymnasium.spaces

        super().__init__(num_envs, features.space(action_set), gymnasium.spaces.Discrete(action_set.num_actions))

    def reset(self) -> Array:
        """Begin N new conversations (after `seed(s)` the first ones of that seed), or continue those of `restore`."""
        if not self._restored:
            if (seed := self._seeds[0]) is not None:
                self.seed_, self.conversations_begun = seed, [0] * self.num_envs
            self._rows = self._begin(range(self.num_envs))
        self._restored = False
        self._reset_seeds()
        self._observe()
        return self._observations.copy()

    def step_async(self, actions: Array) -> None:
        self._actions = [int(action) for action in actions]

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        turns = self.action_set.apply(
            [dialogue.conversation for dialogue in self._rows],
            self._candidates_N,
            self._actions,
            seeds=[dialogue.assistant_seed for dialogue in self._rows],
        )
        self._rows = self.env.simulation.step(self._rows, turns)
        check_servers(self._rows)
        infos: list[dict[str, Any]] = [describe(dialogue) for dialogue in self._rows]
        dones = np.array([dialogue.ended for dialogue in self._rows])
        ended = np.flatnonzero(dones).tolist()
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        for row in ended:
            dialogue = self._rows[row]
            rewards[row] = self._reward(dialogue)
            infos[row] |= {
                "dialogue": dialogue,
                "TimeLimit.truncated": False,
                "terminal_observation": self._observations[row].copy(),
                "reward_imputed": dialogue.reward is None,
            }
        for row, dialogue in zip(ended, self._begin(ended), strict=True):
            self._rows[row] = dialogue
        self._observe()
        return self._observations.copy(), rewards, dones, infos

    def _reward(self, dialogue: Dialogue) -> float:
        """The reward of an ended conversation; imputed and counted where a fault left none."""
        if dialogue.reward is not None:
            self._recent_rewards.append(dialogue.reward)
            return dialogue.reward
        self.faults[f"{dialogue.end_reason}: {fault_label(dialogue.fault)}"] += 1
        return float(np.mean(self._recent_rewards)) if self._recent_rewards else _UNKNOWN_REWARD

    def training_record(self, *, method: str, steps: int) -> TrainingRecord:
        """What a policy is trained with here.

        Args:
            method: What trains it, e.g. `ppo`.
            steps: Assistant turns or updates so far, as the trainer counts them.
        """
        simulation = self.env.simulation
        return TrainingRecord(
            method=method,
            env_id=self.env_id,
            base_model=_as_json(self.features.model_spec),
            seed=self.seed_,
            steps=steps,
            max_turns=simulation.max_turns,
            simulator=simulation.simulator.fingerprint(),
            judge=simulation.judge.fingerprint(),
        )

    def state(self) -> dict[str, Any]:
        """The running conversations as JSON values, for a checkpoint; keys as in earlier versions."""
        return {
            "rows": [dialogue.to_json() for dialogue in self._rows],
            "episodes_begun": list(self.conversations_begun),
            "faults": dict(self.faults),
            "latest_rewards": list(self._recent_rewards),
        }

    def begin_again(self) -> None:
        """The next `reset` gives every row's first conversation."""
        self.conversations_begun = [0] * self.num_envs
        self.faults.clear()
        self._recent_rewards.clear()
        self._restored = False

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`: the next `reset` gives its conversations instead of new ones.

        Raises:
            ConfigurationError: it is not such a state, or has another number of conversations.
        """
        there = from_json(_RowsState, state, "state", extra="ignore")
        if not len(there.rows) == len(there.episodes_begun) == self.num_envs:
            raise ConfigurationError(f"The state has {len(there.rows)} conversations, expected {self.num_envs}.")
        self._rows = [Dialogue.from_json(row) for row in there.rows]
        self.conversations_begun = list(there.episodes_begun)
        self.faults = Counter(there.faults)
        self._recent_rewards = deque(there.latest_rewards, maxlen=_NUM_RECENT_REWARDS)
        self._restored = True

    def _begin(self, rows: Sequence[int]) -> list[Dialogue]:
        """The next conversation of each row; one whose opening fails is counted and followed by another."""
        begun: dict[int, Dialogue] = {}
        for _ in range(_MAX_FAILED_OPENINGS):
            missing = [row for row in rows if row not in begun]
            if not missing:
                break
            seeds = [derive_seed(self.seed_, "row", row, self.conversations_begun[row]) for row in missing]
            for row in missing:
                self.conversations_begun[row] += 1
            opened = self.env.simulation.open(seeds)
            check_servers(opened)
            for row, dialogue in zip(missing, opened, strict=True):
                if dialogue.ended:
                    self.faults[f"opening: {fault_label(dialogue.fault)}"] += 1
                else:
                    begun[row] = dialogue
        if len(begun) < len(rows):
            raise ConfigurationError(f"The simulator failed to open {_MAX_FAILED_OPENINGS} conversations in a row.")
        return [begun[row] for row in rows]

    def _observe(self) -> None:
        conversations = [dialogue.conversation for dialogue in self._rows]
        seeds = [dialogue.assistant_seed for dialogue in self._rows]
        self._candidates_N = self.action_set.propose(conversations, seeds=seeds)
        self._observations = self.features(conversations, self._candidates_N)

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise ConfigurationError(f"All rows are one environment, so {method_name} cannot be called in each of them.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * len(self._indices(indices))

    def _indices(self, indices: Any) -> list[int]:
        if indices is None:
            return list(range(self.num_envs))
        return [indices] if isinstance(indices, int) else list(indices)


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

    def _activation(self) -> str:
        name = str(self.policy.activation_fn.__name__)
        if name not in ACTIVATIONS:
            raise ConfigurationError(f"The policy uses {name}, expected one of {', '.join(ACTIVATIONS)}.")
        return name

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load_policy` reads: weights as safetensors, settings as JSON (keys of earlier versions).

        Raises:
            ConfigurationError: the policy has an activation function that could not be restored.
        """
        from safetensors.numpy import save_file

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
            "activation": self._activation(),
            "deterministic": self.deterministic,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        if self.training is not None:
            self.training.save(folder)


def load_policy(folder: str | Path, model: LanguageModelSpec | None = None) -> PolicyAssistant:
    """The assistant that `PolicyAssistant.save` wrote.

    Args:
        folder: What was saved.
        model: Who writes the replies and is read for observations; it has to be the model of the training. None: the
            one that the record of the training names, else the default model.

    Raises:
        WeightsError: the folder holds no policy.
        MalformedFile: the record of the training cannot be read.
        ConfigurationError: a strategy's text has changed since, or the policy was trained on another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    training = read_training_record(folder)
    if model is None:
        model = training.base_model if training is not None else DEFAULT_MODEL
    try:
        settings = read_json(Path(folder) / SETTINGS)
        tensors = load_file(Path(folder) / POLICY)
        action_set = action_set_from_json(settings["choices"], model)
        features = _stored_features(settings["features"], tensors, model)
        writer = settings["choices"]["writer"]["model"]
        if features.to_json() != settings["features"] or action_set.to_json()["writer"]["model"] != writer:
            raise ConfigurationError(f"The policy in {folder} was trained on {writer}. Give that model.")
        policy = _stored_policy(settings, tensors, action_set, features)
        deterministic = bool(settings["deterministic"])
    except ConfigurationError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} holds no policy: {error!r}. Save one with PolicyAssistant.save.") from error
    return PolicyAssistant(policy, action_set, features, deterministic=deterministic, training=training)


def _stored_features(
    stored: Mapping[str, Any], tensors: Mapping[str, Any], model: LanguageModelSpec
) -> ConversationFeatures:
    projection = None
    if "projection.mean" in tensors:
        projection = Projection(tensors["projection.mean"], tensors["projection.components"])
    return ConversationFeatures(model, layer=stored["layer"], max_turns=stored["max_turns"], projection=projection)


def _stored_policy(
    settings: Mapping[str, Any], tensors: Mapping[str, Any], action_set: ActionSet, features: ConversationFeatures
) -> Any:
    import gymnasium.spaces
    import torch
    from stable_baselines3.common.policies import ActorCriticPolicy

    from simgym.integrations.candidate_policy import CandidatePolicy

    if settings["activation"] not in ACTIVATIONS:
        raise ValueError(settings["activation"])
    kinds = {kind.__name__: kind for kind in (ActorCriticPolicy, CandidatePolicy)}
    policy = kinds[settings.get("policy", "ActorCriticPolicy")](
        features.space(action_set),
        gymnasium.spaces.Discrete(action_set.num_actions),
        lambda _: 0.0,
        net_arch=settings["net_arch"],
        activation_fn=getattr(torch.nn, settings["activation"]),
    )
    weights = {name.removeprefix("policy."): value for name, value in tensors.items() if name.startswith("policy.")}
    policy.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    return policy.eval()


def _as_json(model: LanguageModelSpec) -> str | dict[str, Any]:
    """A model as a record can hold it; of one that was given as an object, its name."""
    if isinstance(model, str):
        return model
    spec = ModelSpec.parse(model)
    return spec.name if spec.instance is not None else spec.to_json()
