"""Training recipes, copied out of the package so that they can be read, changed and run.

A recipe is a script of `agents/` with the configurations that belong to it. In a clone they are read where they lie; a
wheel carries them as data (see `setup.py`). Copies keep the layout, so that the commands in the documentation work with
them: `python agents/ppo.py --config agents/configs/ppo_laptop.yaml`. Nothing is ever overwritten.
"""

from __future__ import annotations

import ast
from pathlib import Path

from simgym.errors import ConfigurationError, UnknownName
from simgym.output_files import write_whole
from simgym.plugins import unknown

RECIPES = {
    "grpo": "GRPO on whole conversations, with TRL",
    "ppo": "PPO over candidate replies, with stable-baselines3",
    "reinforce": "a loop of your own, in plain PyTorch",
    "sft_user": "a user simulator, fine-tuned on logs",
    "reward_model": "a reward model, with TRL",
    "people_reward": "a linear reward head, fitted on people's choices",
    "embedded_reward": "a linear reward head, fitted on corrupted answers",
}
"""Names and what comes out."""
_CONFIGS = {"grpo": "grpo_*", "ppo": "ppo_*"}
"""Configurations of a recipe, by their names; all others are of `sft_user`."""


def recipe_files(name: str) -> dict[Path, str]:
    """Contents of a recipe's files by their path within `agents/`: script, modules that it imports, configurations.

    Raises:
        UnknownName: there is no such recipe; the message lists them.
        ConfigurationError: this installation holds no recipes.
    """
    if name not in RECIPES:
        raise UnknownName(unknown("recipe", name, list(RECIPES)))
    folder = _folder()
    paths = [*_scripts(folder, name), *_configs(folder / "configs", name)]
    return {path.relative_to(folder): path.read_text(encoding="utf-8") for path in paths}


def copy_recipe(name: str, folder: str | Path) -> list[Path]:
    """Write a recipe's files into a folder; returns their paths, the script first.

    Raises:
        UnknownName: there is no such recipe.
        ConfigurationError: a file is there already with other contents; nothing was written.
        TranscriptError: the folder cannot be written.
    """
    files = {Path(folder) / path: text for path, text in recipe_files(name).items()}
    for path, text in files.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != text.encode()):
            raise ConfigurationError(f"{path} is there already and differs from the recipe. Give another folder.")
    for path, text in files.items():
        write_whole(path, text)
    return list(files)


def _folder() -> Path:
    here = Path(__file__).resolve().parent
    for folder in (here / "files", here.parents[1] / "agents"):
        if (folder / "ppo.py").is_file():
            return folder
    raise ConfigurationError("This installation of simgym holds no recipes. Install it again from a wheel or a clone.")


def _scripts(folder: Path, name: str) -> list[Path]:
    """The script, then the modules beside it that it imports, and what those import."""
    scripts = [folder / f"{name}.py"]
    for script in scripts:  # grows while it is read
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            module = folder / f"{node.module}.py" if isinstance(node, ast.ImportFrom) else None
            if module is not None and module.is_file() and module not in scripts:
                scripts.append(module)
    return scripts


def _configs(folder: Path, name: str) -> list[Path]:
    claimed = {path for pattern in _CONFIGS.values() for path in folder.glob(f"{pattern}.yaml")}
    if name == "sft_user":
        return sorted(set(folder.glob("*.yaml")) - claimed)
    return sorted(folder.glob(f"{_CONFIGS[name]}.yaml")) if name in _CONFIGS else []
