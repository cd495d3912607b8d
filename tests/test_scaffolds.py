"""What `simgym init` writes passes its own tests before a line of it is changed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError, UnknownName
from simgym.scaffolds import KINDS, write_scaffold


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_passes_its_own_tests(kind, tmp_path):
    folder = tmp_path / "patient-people"
    outcome = CliRunner().invoke(app, ["init", kind, "patient-people", "-o", str(folder)])
    assert outcome.exit_code == 0, outcome.output
    there = {**os.environ, "PYTHONPATH": str(folder), "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), str(folder / "tests")]
    tested = subprocess.run(command, cwd=folder, env=there, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout[-3000:]
    assert " passed" in tested.stdout


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "study"])
def test_its_entry_point_names_what_the_package_holds(kind, tmp_path):
    write_scaffold(kind, "patient-people", tmp_path / "new")
    project = tomllib.loads((tmp_path / "new" / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"][f"simgym.{KINDS[kind]}"]["patient_people"].partition(":")
    source = (tmp_path / "new" / module / "__init__.py").read_text()
    assert f"class {name}:" in source or f"def {name}(" in source


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        write_scaffold("judge", "strict", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["", "Big", "a b", "../up", "class", "x--y", "1st"])
def test_a_name_that_no_package_can_have_is_refused(name, tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be the name of a package"):
        write_scaffold("judge", name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_unknown_kind_is_named_with_its_neighbour(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'simulator'"):
        write_scaffold("simulatr", "people", tmp_path / "new")
