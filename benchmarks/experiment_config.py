"""A study that `controlled_experiment.py` runs, as its configuration file describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from simgym.errors import ConfigurationError
from simgym.language_models import SamplingParams
from simgym.loading import takes_option
from simgym.simulators import simulator_of

INITIAL = "initial"
"""Name of the assistant that the trained ones began as."""


@dataclass(frozen=True)
class Study:
    """A whole study; see `configs/`."""

    question: str
    """What it is to answer."""
    output_dir: str
    """Gets conversations and results."""
    model: Any
    """Of the initial assistant: a name or settings."""
    simulators: Mapping[str, Mapping[str, Any]]
    """By name: `env_id` and arguments of the simulator. An assistant is trained with each."""
    trainer: Mapping[str, Any]
    """`kind` (ppo or grpo), `config` (file of the recipe), `output_dir`, `scenarios`; if wanted also `options` (further
    settings of the recipe) and `launcher` (e.g. `[accelerate, launch]`)."""
    test: Mapping[str, Any]
    """Scenarios of the matrix: `scenarios`, `split`, `n`."""
    openings: Mapping[str, Any]
    """Those of the win rates; `env_id` says what opens (default: replay)."""
    contrasts: Sequence[Sequence[str]]
    """Pairs of assistants that the question is about, the first one is asked about."""
    held_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """As `simulators`; nobody is trained with these."""
    simulator_options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of all simulators that take them."""
    temperature: float = 1.0
    """Of the assistants."""
    max_new_tokens: int = 256
    """Longest assistant turn, tokens."""
    max_turns: int = 2
    """Assistant turns of a conversation."""
    judge: str = "reward_head"
    """Who gives the reward."""
    judge_model: Any = None
    """Its model; None: its own."""
    training_seeds: Sequence[int] = (0,)
    """Each simulator trains one assistant per seed."""
    seed: int = 0
    """Of the test conversations."""
    batch_size: int = 32
    """Test conversations held at the same time."""

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a configuration file.

        Raises:
            ConfigurationError: it cannot be read, or a setting is missing or unknown.
        """
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
            if unknown := sorted(set(value) - {known.name for known in fields(cls)}):
                raise TypeError(f"unknown setting {', '.join(unknown)}")
            return cls(**value)
        except (OSError, TypeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{path} does not describe a study: {error}.") from error

    @property
    def sampling(self) -> SamplingParams:
        """How assistants write."""
        return SamplingParams(self.temperature, max_new_tokens=self.max_new_tokens)

    def column(self, name: str) -> str:
        """Environment id of a simulator, which has the study's name for it."""
        return f"UserSim-{name}-v0"

    def options_of(self, name: str) -> dict[str, Any]:
        """Arguments of a simulator."""
        own = {**self.simulators, **self.held_out}[name]
        kind = simulator_of(own["env_id"])
        shared = {key: value for key, value in self.simulator_options.items() if takes_option("simulators", kind, key)}
        return {**shared, **{key: value for key, value in own.items() if key != "env_id"}}

    def check(self) -> None:
        """Refuse what would be found out after hours.

        Raises:
            ConfigurationError: names collide, a pair or a part is none, a file is missing, or a recipe's setting is
                given that the study decides.
        """
        for part, keys in (
            ("trainer", ("kind", "config", "output_dir", "scenarios")),
            ("test", ("scenarios",)),
            ("openings", ("scenarios",)),
        ):
            if missing := [key for key in keys if key not in getattr(self, part)]:
                raise ConfigurationError(f"{part} lacks {', '.join(missing)}.")
        if self.trainer["kind"] not in ("ppo", "grpo"):
            raise ConfigurationError(f"trainer.kind is {self.trainer['kind']!r}, expected ppo or grpo.")
        if not Path(self.trainer["config"]).is_file():
            raise ConfigurationError(
                f"There is no recipe file {self.trainer['config']}. Run from the project's folder."
            )
        if overlap := {*self.simulators, INITIAL} & {*self.held_out} or {INITIAL} & {*self.simulators}:
            raise ConfigurationError(f"The name {', '.join(overlap)} stands for two things. Rename a simulator.")
        known = {INITIAL, *self.simulators}
        for pair in self.contrasts:
            if len(pair) != 2 or not set(pair) <= known:
                raise ConfigurationError(f"contrasts has {pair}, expected two of {', '.join(known)}.")
        decided = self.recipe_settings(next(iter(self.simulators)), 0, Path())
        if shadowing := sorted({*self.trainer.get("options", {})} & {*decided}):
            raise ConfigurationError(f"trainer.options has {', '.join(shadowing)}, which the study decides.")

    def rows(self) -> dict[str, tuple[str, int]]:
        """Simulator and training seed by name of the trained assistant."""
        numbered = len(self.training_seeds) > 1
        return {
            f"{name} (seed {seed})" if numbered else name: (name, seed)
            for name in self.simulators
            for seed in self.training_seeds
        }

    def recipe_settings(self, simulator: str, seed: int, folder: Path) -> dict[str, Any]:
        """What the study says about a training run, in the recipe's words."""
        options = self.options_of(simulator)
        user_model = options.pop("model", None)
        shared = {
            "env_id": self.simulators[simulator]["env_id"],
            "seed": seed,
            "output_dir": str(folder),
            "scenarios": self.trainer["scenarios"],
            "max_turns": self.max_turns,
            "temperature": self.temperature,
            "judge": self.judge,
            "simulator_options": options,
        }
        models = {"user_model": user_model, "judge_model": self.judge_model}
        if self.trainer["kind"] == "ppo":
            own = {"model": self.model, "max_new_tokens": self.max_new_tokens, "compare": False}
            return {**shared, **own, **models}
        if self.trainer["kind"] == "grpo":
            name = self.model["model"] if isinstance(self.model, Mapping) else self.model
            texts = {key: json.dumps(value) if isinstance(value, Mapping) else value for key, value in models.items()}
            return {**shared, "model_name_or_path": name, "max_completion_length": self.max_new_tokens, **texts}
        raise ConfigurationError(f"trainer.kind is {self.trainer['kind']!r}, expected ppo or grpo.")
