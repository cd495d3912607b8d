"""Releases of other projects that simgym does not work with, as empty packages: a sentence, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ADAPTERS = {
    "inspect-ai": ("inspect_ai", ["inspect_ai", "inspect_model", "inspect_log"]),
    "skyrl-gym": ("skyrl_gym", ["skyrl"]),
    "verifiers": ("verifiers", ["verifiers"]),
    "gem-llm": ("gem", ["gem"]),
    "openenv": ("openenv", ["openenv", "openenv_harness"]),
    "verl": ("verl", ["verl"]),
    "stable-baselines3": ("stable_baselines3", ["stable_baselines3"]),
}
"""Package and modules of `simgym.integrations` by the project's name on the package index; TRL's is in test_trl.py."""
IMPORT_ALL = """
import importlib, json, sys
said = {}
for module in sys.argv[1:]:
    try:
        importlib.import_module(f"simgym.integrations.{module}")
    except ImportError as error:
        said[module] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What importing each adapter says where its project is installed in version 0.0.1, and holds nothing."""
    folder = tmp_path_factory.mktemp("site")
    for project, (package, _) in ADAPTERS.items():
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("")
        metadata = folder / f"{project.replace('-', '_')}-0.0.1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 0.0.1\n")
    modules = [module for _, modules in ADAPTERS.values() for module in modules]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    return json.loads(subprocess.check_output([sys.executable, "-c", IMPORT_ALL, *modules], text=True, env=environment))


@pytest.mark.parametrize(
    ("project", "module"), [(project, module) for project, (_, modules) in ADAPTERS.items() for module in modules]
)
def test_a_wrong_version_is_a_sentence_that_names_the_range(said, project, module):
    assert said[module].startswith("MissingDependency: ")
    assert f"{project} 0.0.1 is installed, simgym works with " in said[module]
    assert "Run: pip install 'simgym[" in said[module]
