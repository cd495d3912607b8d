"""Recipes are copied whole, and never over somebody's changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError, UnknownName
from simgym.recipes import RECIPES, copy_recipe, recipe_files

AGENTS = Path(__file__).resolve().parents[1] / "agents"


def test_a_recipe_brings_what_it_imports_and_its_configurations(tmp_path):
    paths = copy_recipe("ppo", tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in paths}
    assert names == {"ppo.py", "ppo_comparison.py", "configs/ppo_laptop.yaml"}
    assert all(path.read_bytes() == (AGENTS / path.relative_to(tmp_path)).read_bytes() for path in paths)


def test_every_configuration_belongs_to_one_recipe():
    copied = [path for name in RECIPES for path in recipe_files(name) if path.suffix == ".yaml"]
    assert sorted(copied) == sorted(path.relative_to(AGENTS) for path in AGENTS.glob("configs/*.yaml"))


def test_a_changed_file_stays_and_nothing_is_written(tmp_path):
    (tmp_path / "ppo_comparison.py").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"ppo_comparison\.py is there already"):
        copy_recipe("ppo", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ppo_comparison.py"]


def test_the_command_copies_and_says_how_to_run_it(tmp_path):
    outcome = CliRunner().invoke(app, ["recipe", "grpo", str(tmp_path / "mine")])
    assert outcome.exit_code == 0, outcome.output
    assert f"python {tmp_path / 'mine' / 'grpo.py'} --config" in outcome.output.replace("\n", " ")


def test_an_unknown_recipe_is_named_with_its_neighbour():
    with pytest.raises(UnknownName, match="Did you mean 'grpo'"):
        recipe_files("grop")
