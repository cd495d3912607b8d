"""The trainings of a study: one for each simulator and seed, by the same recipe with the same budget and data.

What a training is made with is written down before it begins. It goes on with those settings or not at all, and only
what was trained with the study's settings is evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from experiment_config import INITIAL, Study

import simgym
from simgym.errors import ConfigurationError
from simgym.integrations import RecipeRun, run_recipes
from simgym.language_models import adapter_fingerprint

RECIPES = Path(__file__).resolve().parents[1] / "agents"
BEGUN, DONE = "recipe.part.yaml", "recipe.yaml"
"""Settings of a training run, before and after it has come to its end."""
LASTS = {"updates", "max_steps"}
"""Settings that a training may go on with when they have grown."""


def train(study: Study, address: str | None, resources: Mapping[str, float]) -> None:
    """Train what has not been trained."""
    runs = recipe_runs(study)
    try:
        run_recipes(runs, address=address, resources=resources)
    finally:
        for row, (simulator, seed) in study.rows().items():  # of a run that has come to its end
            begun = training_folder(study, simulator, seed) / BEGUN
            if begun.is_file() and is_trained(study, simulator, seed, begun.stat().st_mtime):
                begun.replace(begun.with_name(DONE))
                print(f"trained {row}", flush=True)


def recipe_runs(study: Study) -> list[RecipeRun]:
    """The training runs that are missing; the settings of each, the recipe's and the study's, are written down.

    Raises:
        ConfigurationError: a run was begun with other settings.
    """
    runs = []
    for row, (simulator, seed) in study.rows().items():
        folder = training_folder(study, simulator, seed)
        settings = all_settings(study, simulator, seed)
        if settings == read_settings(folder / DONE):
            continue
        for name in (BEGUN, DONE):
            refuse_others(folder / name, settings)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / BEGUN
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        script = str(RECIPES / f"{study.trainer['kind']}.py")
        log, launcher = str(folder.resolve() / "recipe.log"), tuple(study.trainer.get("launcher", ()))
        runs.append(
            RecipeRun(
                name=row,
                script=script,
                arguments=("--config", str(path)),
                log=log,
                folder=str(Path.cwd()),
                launcher=launcher,
            )
        )
    return runs


def all_settings(study: Study, simulator: str, seed: int) -> dict[str, Any]:
    """Of a training run: the recipe's file, the study, and its further options."""
    folder = training_folder(study, simulator, seed)
    base = yaml.safe_load(Path(study.trainer["config"]).read_text(encoding="utf-8"))
    settings = {**base, **study.recipe_settings(simulator, seed, folder), **study.trainer.get("options", {})}
    return dict(yaml.safe_load(yaml.safe_dump(settings)))


def read_settings(path: Path) -> dict[str, Any] | None:
    """What was written down of a training run; None if nothing was."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else None


def refuse_others(path: Path, settings: Mapping[str, Any]) -> None:
    """A training goes on with the settings that it was begun with; it may last longer."""
    before = read_settings(path)
    if before is None:
        return
    differing = {key for key in {*before, *settings} if before.get(key) != settings.get(key)}
    longer = {key for key in differing & LASTS if (settings.get(key) or 0) > (before.get(key) or 0)}
    if others := sorted(differing - longer):
        raise ConfigurationError(
            f"The training in {path.parent} was begun with another {', '.join(others)}. Give another "
            "trainer.output_dir, or delete that folder."
        )


def training_folder(study: Study, simulator: str, seed: int) -> Path:
    """Of one training run: its settings, its log, and what the recipe writes."""
    return Path(study.trainer["output_dir"]) / f"{simulator}-{seed}"


def is_trained(study: Study, simulator: str, seed: int, since: float = 0.0) -> bool:
    """Whether the recipe has come to its end, after a time."""
    last = run_folder(study, simulator, seed) / (
        "policy/policy.json" if study.trainer["kind"] == "ppo" else "checkpoint.json"
    )
    return last.is_file() and last.stat().st_mtime >= since


def run_folder(study: Study, simulator: str, seed: int) -> Path:
    """Where the recipe has put its log and what it trained."""
    folder = training_folder(study, simulator, seed)
    if study.trainer["kind"] == "ppo":
        return folder / f"{study.simulators[simulator]['env_id']}-seed{seed}"
    return folder


def is_done(study: Study, simulator: str, seed: int) -> bool:
    """Whether a training has come to its end with the study's settings."""
    done = read_settings(training_folder(study, simulator, seed) / DONE)
    return done == all_settings(study, simulator, seed)


def load_assistants(study: Study) -> dict[str, Any]:
    """The initial assistant, and those that were trained.

    Raises:
        ConfigurationError: one has not been trained yet, or with other settings.
    """
    for row, (simulator, seed) in study.rows().items():
        if not is_done(study, simulator, seed):
            raise ConfigurationError(f"{row} has not been trained with these settings. Give the stage `train` first.")
    initial = simgym.LanguageModelAssistant(study.model, sampling=study.sampling)
    return {INITIAL: initial} | (_policies(study) if study.trainer["kind"] == "ppo" else _checkpoints(study))


def _policies(study: Study) -> dict[str, Any]:
    from simgym.integrations import load_policy

    return {row: load_policy(run_folder(study, *run) / "policy", study.model) for row, run in study.rows().items()}


def _checkpoints(study: Study) -> dict[str, Any]:
    """Those at the onset of the plateau, see `agents/grpo.py`: whole models, or adapters on one copy of the base."""
    base = dict(study.model) if isinstance(study.model, Mapping) else {"model": study.model}
    chosen: dict[str, Path | None] = {}
    for row, run in study.rows().items():
        folder = run_folder(study, *run)
        name = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))["checkpoint"]
        chosen[row] = None if name == "base model" else folder / (name or "final")
    # an adapter is known by its name, so the name has its content
    adapters = {
        row: f"{row} {adapter_fingerprint(str(path))}"
        for row, path in chosen.items()
        if path is not None and (path / "adapter_config.json").is_file()
    }
    shared = {**base, "adapters": {name: str(chosen[row]) for row, name in adapters.items()}} if adapters else base
    assistants = {}
    for row, path in chosen.items():
        whole = path is not None and row not in adapters
        model = {**base, "model": str(path)} if whole else shared
        assistants[row] = simgym.LanguageModelAssistant(model, adapter=adapters.get(row), sampling=study.sampling)
    return assistants
