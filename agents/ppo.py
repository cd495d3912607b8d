"""Train an assistant by PPO against a simulated user: a small policy learns which of several replies to send.

    python agents/ppo.py --config agents/configs/ppo_laptop.yaml --env_id UserSim-Persona-v0 --seed 0

stable-baselines3's PPO over `TextVecEnv`: the actions choose among `SampledReplies`, which a frozen language model has
sampled (or among `Strategies`, ways to answer that it then follows); the observations are hidden states. Afterwards the
trained policy, the policy it started from, every fixed strategy and the longest and the shortest reply run the same
conversations on held-out scenarios, and are compared in pairs. The output folder gets `log.jsonl` (a line per update),
`policy/` (`simgym matrix --assistant FOLDER/policy`), every conversation of the comparison, `result.json` and
`curves.png`. The same command again continues after the last finished update, or conversation; updates derive all
randomness from the seed and their number, so that an interrupted run gives what an undisturbed one gives.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ppo_comparison import compare

from simgym.assistants import STRATEGIES, ActionSet, SampledReplies, Strategies
from simgym.conversation import Conversation, Scenario
from simgym.envs.outages import WAITS, Pauses
from simgym.errors import ServerUnavailable
from simgym.integrations import (
    ConversationFeatures,
    PolicyAssistant,
    Projection,
    TextVecEnv,
    as_mapping,
    as_model,
    run_script,
)
from simgym.language_models import SamplingParams
from simgym.seeding import derive_seed
from simgym.training_plan import (
    MemoryEstimate,
    TrainingPlan,
    check_plan,
    estimate_state,
    movable_share,
)


@dataclass
class Settings:
    """Everything that decides a run."""

    env_id: str = "UserSim-Persona-v0"
    """Who plays the user."""
    output_dir: str = "runs/ppo"
    """Where to write; the environment and the seed are appended."""
    scenarios: str = "everyday"
    """Scenario set; a fifth is held out, the same whoever plays the user."""
    held_out: int = 40
    """Held-out scenarios in the comparison."""
    seeds: int = 4
    """Conversations on each of them."""
    max_turns: int = 2
    """Assistant turns of a conversation."""
    model: str = "smollm2-135m-instruct"
    """Who writes the assistant's turns, frozen: a name, or JSON (or a mapping in YAML)."""
    judge: str = "reward_head"
    """Who gives the reward."""
    user_model: str | None = None
    """Model of the user, as `model`; none: the environment's own."""
    judge_model: str | None = None
    """Model of the judge, as `model`; none: its own."""
    simulator_options: str | None = None
    """Further arguments of the simulator, JSON (or a mapping in YAML)."""
    choices: str = "candidates"
    """`candidates`: choose among replies; `strategies`: choose how to answer, before anything is written."""
    strategies: list[str] = field(default_factory=lambda: list(STRATEGIES))
    """Which strategies there are to choose from."""
    candidates: int = 4
    """How many replies there are to choose from."""
    temperature: float = 0.7
    """Of the assistant's replies."""
    max_new_tokens: int = 80
    """Longest assistant turn."""
    layer: int = 20
    """Layer whose states are observed."""
    components: int = 32
    """Principal components of them that the policy sees."""
    num_envs: int = 16
    """Conversations at a time."""
    n_steps: int = 4
    """Turns of each in one update."""
    updates: int = 20
    """PPO updates."""
    learning_rate: float = 3e-3
    """Of Adam."""
    n_epochs: int = 8
    """Passes over the turns of one update."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    clip_range: float = 0.2
    """PPO's clipping of the probability ratio."""
    outage_waits: list[float] = field(default_factory=lambda: list(WAITS))
    """Seconds before each new attempt when no server answers."""
    net_arch: list[int] = field(default_factory=lambda: [32])
    """Hidden layers of policy and value function."""
    seed: int = 0
    """Decides everything random."""
    compare: bool = True
    """Compare the policy with fixed strategies afterwards, on held-out scenarios."""


def main() -> None:
    """Parse the settings, train, compare."""
    from trl import TrlParser

    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise SystemExit(
            f"PPO was started in {processes} processes, and runs in one. Start it with python, once for each seed."
        )
    (settings,) = TrlParser((Settings,)).parse_args_and_config(sys.argv[1:])
    folder = Path(settings.output_dir) / f"{settings.env_id}-seed{settings.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(settings, folder)
    train, test = split(settings)
    run = Run(settings, folder, train)
    print(run.plan().describe(), flush=True)
    run.learn()
    if settings.compare:
        import gymnasium

        env = gymnasium.make(settings.env_id, scenarios=test, **environment(settings))
        compare(run, env, n=len(test) * settings.seeds)


def check_settings(settings: Settings, folder: Path) -> None:
    """A folder belongs to one run; more updates or held-out scenarios are no other run."""
    path = folder / "settings.json"
    ours = asdict(settings)
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        grows = {"updates", "held_out", "seeds", "output_dir", "outage_waits", "compare"}
        if differing := sorted(name for name in ours if name not in grows and ours[name] != theirs.get(name)):
            raise SystemExit(f"{folder} was made with another {', '.join(differing)}. Give another output_dir.")
    path.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")


def split(settings: Settings) -> tuple[list[Scenario], list[Scenario]]:
    """Scenarios to train on and to test on, by their ids alone."""
    from simgym.data import hold_out, load_scenarios

    train, held_out = hold_out(load_scenarios(settings.scenarios))
    test = held_out[: settings.held_out]
    if len(test) < 2:
        raise SystemExit(
            f"{settings.scenarios} leaves {len(test)} held-out scenarios, expected 2 or more for an interval."
        )
    return train, test


def environment(settings: Settings) -> dict[str, Any]:
    """Arguments of the environment."""
    models = {"model": settings.user_model, "judge_model": settings.judge_model}
    return {
        "max_turns": settings.max_turns,
        "judge": settings.judge,
        "simulator_options": as_mapping(settings.simulator_options),
        **{name: as_model(model) for name, model in models.items() if model is not None},
    }


class Run:
    """One training run and its checkpoint."""

    def __init__(self, settings: Settings, folder: Path, scenarios: list[Scenario]) -> None:
        from stable_baselines3 import PPO

        from simgym.integrations import CandidatePolicy

        self.settings, self.folder = settings, folder
        sampling = SamplingParams(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
        writer = as_model(settings.model)
        self.action_set: ActionSet = (
            SampledReplies(writer, num_candidates=settings.candidates, sampling=sampling)
            if settings.choices == "candidates"
            else Strategies(writer, names=settings.strategies, sampling=sampling)
        )
        raw = ConversationFeatures(writer, layer=settings.layer, max_turns=settings.max_turns)
        openings = [Conversation().add("user", scenario.opening or scenario.goal) for scenario in scenarios]
        features = self._stored_features(raw)
        if features is None:
            seeds = [derive_seed(0, scenario.id) for scenario in scenarios]
            candidates_N = self.action_set.propose(openings, seeds=seeds) if self.action_set.num_candidates else None
            features = raw.fitted(openings, candidates_N=candidates_N, size=settings.components)
        self.env = TextVecEnv(
            settings.env_id,
            self.action_set,
            features,
            num_envs=settings.num_envs,
            seed=settings.seed,
            scenarios=scenarios,
            **environment(settings),
        )
        self.model = PPO(
            CandidatePolicy if self.action_set.num_candidates else "MlpPolicy",
            self.env,
            n_steps=settings.n_steps,
            batch_size=settings.n_steps * settings.num_envs,
            n_epochs=settings.n_epochs,
            learning_rate=settings.learning_rate,
            ent_coef=settings.ent_coef,
            clip_range=settings.clip_range,
            gamma=1.0,
            gae_lambda=1.0,
            policy_kwargs={"net_arch": list(settings.net_arch)},
            seed=settings.seed,
            device="cpu",
        )
        self.initial = copy.deepcopy(self.model.policy)
        self.done = 0
        self._load()

    def plan(self) -> TrainingPlan:
        """What an update takes. Language models of replies, user and judge, which are not trained, come on top.

        Raises:
            ConfigurationError: the learning rate is too small for the weights' number format.
        """
        weights = list(self.model.policy.parameters())
        count = sum(parameter.numel() for parameter in weights)
        turns = self.settings.n_steps * self.settings.num_envs
        plan = TrainingPlan(
            processes=1,
            per_device_batch=turns,
            accumulation=1,
            learning_rate=self.settings.learning_rate,
            weights="float32",
            computing="float32",
            parameters=count,
            trainable=count,
            movable=movable_share(weights, self.settings.learning_rate),
            sharding="none",
            # a network of a few layers keeps about as many activations an example as it has weights
            memory=MemoryEstimate(
                state_gib=estimate_state(frozen_bytes=0, trainable=count, width=4),
                activation_gib=turns * count * 4 / 2**30,
            ),
        )
        check_plan(plan, effective_batch=turns)
        return plan

    def learn(self) -> None:
        """The updates that are missing; a checkpoint after each."""
        while self.done < self.settings.updates:
            try:
                self._next_update()
            except ServerUnavailable as error:
                raise SystemExit(
                    f"{error} The run stops after update {self.done}; when the servers answer again, the same command "
                    "goes on."
                ) from error
        self.assistant().save(self.folder / "policy")

    def _next_update(self) -> None:
        pauses, done = Pauses(self.settings.outage_waits), self.done
        while self.done == done:
            try:
                self._update()
            except ServerUnavailable as error:
                pauses.wait(error)

    def _update(self) -> None:
        from stable_baselines3.common.utils import set_random_seed

        started = time.monotonic()
        watch = Watch()
        set_random_seed(derive_seed(self.settings.seed, "update", self.done) % 2**32)
        try:
            self.model.learn(
                self.settings.n_steps * self.settings.num_envs, callback=watch.callback(), reset_num_timesteps=False
            )
        except ServerUnavailable:
            self._load()
            raise
        self.done += 1
        row = {
            "update": self.done,
            **watch.figures(self.action_set.num_actions),
            "entropy": -float(self.model.logger.name_to_value.get("train/entropy_loss", float("nan"))),
            "faults": dict(self.env.faults),
            "seconds": round(time.monotonic() - started, 1),
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        self._save()
        print(json.dumps(row), flush=True)

    def assistant(self, *, initial: bool = False) -> PolicyAssistant:
        """The policy as an assistant: trained and at its most probable, or as it began and drawing."""
        if initial:
            return PolicyAssistant(self.initial, self.action_set, self.env.features, deterministic=False)
        return PolicyAssistant(
            self.model.policy,
            self.action_set,
            self.env.features,
            training=self.env.training_record(method="ppo", steps=self.done),
        )

    def _stored_features(self, raw: ConversationFeatures) -> ConversationFeatures | None:
        """What the checkpoint was trained with, so that another machine goes on with the same observations."""
        import torch

        path = self.folder / "checkpoint.pt"
        if not path.is_file() or "projection" not in (state := torch.load(path, weights_only=True)):
            return None
        mean, components = (array.numpy() for array in state["projection"])
        settings = self.settings
        return ConversationFeatures(
            raw.model_spec, layer=settings.layer, max_turns=settings.max_turns, projection=Projection(mean, components)
        )

    def _save(self) -> None:
        import torch

        projection = self.env.features.projection
        state = {
            "projection": [torch.from_numpy(array) for array in (projection.mean, projection.components)],
            "policy": self.model.policy.state_dict(),
            "optimizer": self.model.policy.optimizer.state_dict(),
            "env": json.dumps(self.env.state()),
            "done": self.done,
            "num_timesteps": self.model.num_timesteps,
        }
        torch.save(state, self.folder / "checkpoint.part")
        os.replace(self.folder / "checkpoint.part", self.folder / "checkpoint.pt")

    def _load(self) -> None:
        """As after the last finished update."""
        import torch

        self.model._last_obs = None  # so that `learn` asks the environment where it stands
        self.env.begin_again()
        path = self.folder / "checkpoint.pt"
        if path.is_file():
            state = torch.load(path, weights_only=True)
            self.model.policy.load_state_dict(state["policy"])
            self.model.policy.optimizer.load_state_dict(state["optimizer"])
            self.env.restore(json.loads(state["env"]))
            self.done, self.model.num_timesteps = state["done"], state["num_timesteps"]
        log = self.folder / "log.jsonl"
        if log.is_file():  # an update that was logged but not finished is done again
            lines = [line for line in log.read_text(encoding="utf-8").split("\n") if line][: self.done]
            log.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


class Watch:
    """What happens in one update."""

    def __init__(self) -> None:
        self.rewards: list[float] = []
        self.lengths: list[int] = []
        self.actions: Counter[int] = Counter()

    def callback(self) -> Any:
        """A callback for `learn`."""
        from stable_baselines3.common.callbacks import BaseCallback

        watch = self

        class Callback(BaseCallback):
            def _on_step(self) -> bool:
                watch.actions.update(int(action) for action in self.locals["actions"])
                for info in self.locals["infos"]:
                    if (dialogue := info.get("dialogue")) is not None and dialogue.reward is not None:
                        watch.rewards.append(dialogue.reward)
                        watch.lengths.append(sum(map(len, dialogue.conversation.said_by("assistant"))))
                return True

        return Callback()

    def figures(self, count: int) -> dict[str, Any]:
        """Mean reward and length in characters of the conversations that ended, and how often what was chosen."""
        return {
            "episodes": len(self.rewards),
            "reward": float(np.mean(self.rewards)) if self.rewards else None,
            "assistant_characters": float(np.mean(self.lengths)) if self.lengths else None,
            "chosen": [self.actions[number] for number in range(count)],
        }


if __name__ == "__main__":
    run_script(main)
