"""stable-baselines3 over simulated users: a batched `VecEnv`, and a trained policy as an assistant.

    vec_env = TextVecEnv("UserSim-Persona-v0", Strategies(), features, num_envs=16, seed=0, max_turns=2)
    PPO("MlpPolicy", vec_env, n_steps=4, batch_size=64).learn(2000)
    assistant = PolicyAssistant(model.policy, vec_env.choices, vec_env.features)

stable-baselines3 takes no text, so actions are the numbers of choices and observations are vectors of features (see
`simgym.integrations.numeric`). `TextVecEnv` steps all conversations with one model call a role. stable-baselines3 can
leave no step out, so a conversation that a fault leaves without a reward gets the mean of the latest rewards, which
pulls the policy in no direction; `info["reward_imputed"]` tells, and `faults` counts them by kind. When all fail
because a server is silent, `reset` and `step` raise `ServerUnavailable`.

A saved policy is a folder of safetensors and JSON, and nothing in it is unpickled.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simgym.assistants.base import AssistantTurn
from simgym.assistants.choices import Choices, Offer, choices_from_json
from simgym.conversation import Conversation
from simgym.envs.settings import describe
from simgym.envs.vector_env import UserSimVectorEnv
from simgym.errors import ConfigurationError, WeightsError
from simgym.extras import optional_import
from simgym.faults import fault_label
from simgym.integrations.numeric import ConversationFeatures, Projection
from simgym.integrations.outages import check_servers
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.weights import DEFAULT_MODEL
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue
from simgym.transcripts import text_hash

optional_import("stable_baselines3", "train")  # says which extra brings it
from stable_baselines3.common.vec_env import VecEnv  # noqa: E402

Array = np.ndarray[Any, Any]
ACTIVATIONS = ("Tanh", "ReLU", "GELU", "SiLU", "ELU", "LeakyReLU")
"""Activation functions of policies that can be saved."""
POLICY, SETTINGS = "policy.safetensors", "policy.json"
_MOST_OPENINGS = 20
"""Openings that may fail in a row before a simulator is taken to be broken."""
_LATEST, _UNKNOWN_REWARD = 256, 0.5
"""Rewards whose mean stands for a missing one, and what does before there are any: the middle of their range."""


class TextVecEnv(VecEnv):
    """N conversations for stable-baselines3, one model call a role and step."""

    render_mode = None

    def __init__(
        self,
        env_id: str,
        choices: Choices,
        features: ConversationFeatures,
        *,
        num_envs: int = 8,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Make the environments.

        Args:
            env_id: `UserSim-...`.
            choices: What the actions mean.
            features: What the observations are; its `max_turns` should be that of the environment.
            num_envs: N.
            seed: Decides the scenario and all randomness of the users of every episode: row r's cth episode is the
                same whatever the policy does and whoever simulates the user.
            settings: Arguments of the environment.
        """
        import gymnasium

        env = gymnasium.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **settings)
        base = env.unwrapped
        if not isinstance(base, UserSimVectorEnv):
            raise ConfigurationError(f"{env_id} is a {type(base).__name__}, expected one of simgym's (UserSim-...).")
        self.env, self.choices, self.features, self.seed_ = base, choices, features, seed
        self.episodes_begun = [0] * num_envs
        """How many episodes each row has begun."""
        self.faults: Counter[str] = Counter()
        """Conversations without a reward, by kind of fault."""
        self._latest: deque[float] = deque(maxlen=_LATEST)
        self._restored = False
        self._rows: list[Dialogue] = []
        self._offers: list[Offer] = []
        self._seen = np.zeros((0, 0), dtype=np.float32)
        self._actions: list[int] = []
        import gymnasium.spaces

        super().__init__(num_envs, features.space(choices), gymnasium.spaces.Discrete(choices.count))

    def reset(self) -> Array:
        """Begin N new conversations (after `seed(s)` the first ones of that seed), or go on with those of `restore`."""
        if not self._restored:
            if (seed := self._seeds[0]) is not None:
                self.seed_, self.episodes_begun = seed, [0] * self.num_envs
            self._rows = self._begin(range(self.num_envs))
        self._restored = False
        self._reset_seeds()
        self._look(range(self.num_envs))
        return self._seen.copy()

    def step_async(self, actions: Array) -> None:
        self._actions = [int(action) for action in actions]

    def step_wait(
        self,
    ) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        turns = self.choices.take(
            [dialogue.conversation for dialogue in self._rows],
            self._offers,
            self._actions,
            [dialogue.assistant_seed for dialogue in self._rows],
        )
        self._rows = self.env.simulation.step(self._rows, turns)
        check_servers(self._rows)
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones = np.array([dialogue.ended for dialogue in self._rows])
        infos: list[dict[str, Any]] = [describe(dialogue) for dialogue in self._rows]
        ended = [row for row, over in enumerate(dones) if over]
        for row in ended:
            dialogue = self._rows[row]
            infos[row]["dialogue"] = dialogue
            infos[row]["TimeLimit.truncated"] = False
            infos[row]["terminal_observation"] = self._seen[row].copy()
            infos[row]["reward_imputed"] = dialogue.reward is None
            if dialogue.reward is None:
                self.faults[f"{dialogue.end_reason}: {fault_label(dialogue.fault)}"] += 1
                rewards[row] = np.mean(self._latest) if self._latest else _UNKNOWN_REWARD
            else:
                rewards[row] = dialogue.reward
                self._latest.append(dialogue.reward)
        for row, dialogue in zip(ended, self._begin(ended), strict=True):
            self._rows[row] = dialogue
        self._look(range(self.num_envs))
        return self._seen.copy(), rewards, dones, infos

    def state(self) -> dict[str, Any]:
        """The running conversations as JSON values, for a checkpoint."""
        return {
            "rows": [dialogue.to_json() for dialogue in self._rows],
            "episodes_begun": list(self.episodes_begun),
            "faults": dict(self.faults),
            "latest_rewards": list(self._latest),
        }

    def begin_again(self) -> None:
        """The next `reset` gives every row's first conversation."""
        self.episodes_begun = [0] * self.num_envs
        self.faults.clear()
        self._latest.clear()
        self._restored = False

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`: the next `reset` gives its conversations instead of new ones.

        Raises:
            ConfigurationError: it has another number of conversations.
        """
        if len(state["rows"]) != self.num_envs:
            raise ConfigurationError(f"The state has {len(state['rows'])} conversations, expected {self.num_envs}.")
        self._rows = [Dialogue.from_json(row) for row in state["rows"]]
        self.episodes_begun = list(state["episodes_begun"])
        self.faults = Counter(state["faults"])
        self._latest = deque(state["latest_rewards"], maxlen=_LATEST)
        self._restored = True

    def _begin(self, rows: Sequence[int]) -> list[Dialogue]:
        """The next conversation of each row; one whose opening fails is counted and followed by another."""
        begun: dict[int, Dialogue] = {}
        for _ in range(_MOST_OPENINGS):
            missing = [row for row in rows if row not in begun]
            if not missing:
                break
            seeds = [derive_seed(self.seed_, "row", row, self.episodes_begun[row]) for row in missing]
            for row in missing:
                self.episodes_begun[row] += 1
            opened = self.env.simulation.open(seeds)
            check_servers(opened)
            for row, dialogue in zip(missing, opened, strict=True):
                if dialogue.ended:
                    self.faults[f"opening: {fault_label(dialogue.fault)}"] += 1
                else:
                    begun[row] = dialogue
        if len(begun) < len(rows):
            raise ConfigurationError(f"The simulator failed to open {_MOST_OPENINGS} conversations in a row.")
        return [begun[row] for row in rows]

    def _look(self, rows: Sequence[int]) -> None:
        conversations = [self._rows[row].conversation for row in rows]
        self._offers = self.choices.offer(conversations, seeds=[self._rows[row].assistant_seed for row in rows])
        self._seen = self.features(conversations, self._offers)

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
        self, policy: Any, choices: Choices, features: ConversationFeatures, *, deterministic: bool = True
    ) -> None:
        """Take what was trained.

        Args:
            policy: An actor-critic policy of stable-baselines3 (`model.policy`).
            choices: What its actions mean.
            features: What it sees.
            deterministic: Take the most probable action; else draw, by the turn's seed.
        """
        self.policy, self.choices, self.features, self.deterministic = policy, choices, features, deterministic

    def respond(self, conversations: Sequence[Conversation], *, seeds: Sequence[int]) -> list[AssistantTurn]:
        offers = self.choices.offer(conversations, seeds=seeds)
        probabilities = self.probabilities(self.features(conversations, offers))
        if self.deterministic:
            chosen = [int(row.argmax()) for row in probabilities]
        else:
            drawn = [np.random.default_rng(derive_seed(seed, "policy")).random() for seed in seeds]
            chosen = [
                min(int(np.searchsorted(row.cumsum(), number)), self.choices.count - 1)
                for row, number in zip(probabilities, drawn, strict=True)
            ]
        return self.choices.take(conversations, offers, chosen, seeds)

    def probabilities(self, observations: Array) -> Array:
        """Probability of each choice, shape (N, count)."""
        import torch

        with torch.inference_mode():
            seen = torch.as_tensor(observations, device=self.policy.device)
            found: Array = self.policy.get_distribution(seen).distribution.probs.cpu().numpy()
        return found

    def fingerprint(self) -> dict[str, Any]:
        weights = self.policy.state_dict()
        joined = "".join(weights[name].cpu().numpy().tobytes().hex() for name in sorted(weights))
        return {
            "assistant": "policy",
            "weights": text_hash(joined),
            "choices": self.choices.to_json(),
            "features": self.features.to_json(),
            "deterministic": self.deterministic,
        }

    def _activation(self) -> str:
        name = str(self.policy.activation_fn.__name__)
        if name not in ACTIVATIONS:
            raise ConfigurationError(f"The policy uses {name}, expected one of {', '.join(ACTIVATIONS)}.")
        return name

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load_policy` reads: weights as safetensors, settings as JSON.

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
            "choices": self.choices.to_json(),
            "features": self.features.to_json(),
            "policy": type(self.policy).__name__,
            "net_arch": self.policy.net_arch,
            "activation": self._activation(),
            "deterministic": self.deterministic,
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def load_policy(folder: str | Path, model: LanguageModelSpec = DEFAULT_MODEL) -> PolicyAssistant:
    """The assistant that `PolicyAssistant.save` wrote.

    Args:
        folder: What was saved.
        model: Who writes the replies and is read for observations; it has to be the model of the training.

    Raises:
        WeightsError: the folder holds no policy.
        ConfigurationError: a strategy's text has changed since, or the policy was trained on another model.
    """
    import gymnasium.spaces
    import torch
    from safetensors import SafetensorError
    from safetensors.numpy import load_file
    from stable_baselines3.common.policies import ActorCriticPolicy

    from simgym.integrations.candidate_policy import CandidatePolicy

    try:
        settings = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / POLICY)
        choices = choices_from_json(settings["choices"], model)
        stored = settings["features"]
        projection = None
        if "projection.mean" in tensors:
            projection = Projection(tensors["projection.mean"], tensors["projection.components"])
        features = ConversationFeatures(
            model, layer=stored["layer"], max_turns=stored["max_turns"], projection=projection
        )
        writer = settings["choices"]["writer"]["model"]
        if features.to_json() != stored or choices.to_json()["writer"]["model"] != writer:
            raise ConfigurationError(f"The policy in {folder} was trained on {writer}. Give that model.")
        if settings["activation"] not in ACTIVATIONS:
            raise ValueError(settings["activation"])
        kinds = {kind.__name__: kind for kind in (ActorCriticPolicy, CandidatePolicy)}
        policy = kinds[settings.get("policy", "ActorCriticPolicy")](
            features.space(choices),
            gymnasium.spaces.Discrete(choices.count),
            lambda _: 0.0,
            net_arch=settings["net_arch"],
            activation_fn=getattr(torch.nn, settings["activation"]),
        )
        weights = {name.removeprefix("policy."): value for name, value in tensors.items() if name.startswith("policy.")}
        policy.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise WeightsError(f"{folder} holds no policy: {error!r}. Save one with PolicyAssistant.save.") from error
    policy.eval()
    return PolicyAssistant(policy, choices, features, deterministic=bool(settings["deterministic"]))
